"""What the docs and the parameter file say must be what the nodes do; both are generated."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from so101_driver.parameter_spec import COMMON
from wallx_bringup.parameter_docs import all_parameters, generate
from wallx_bringup.state_diagram import drawn, tabled

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", generate())
def test_generated_files_are_up_to_date(name: str) -> None:
    path = ROOT / name
    assert path.is_file(), f"{name} is missing: run `make docs`"
    assert path.read_text(encoding="utf-8") == generate()[name], f"{name} is stale: run `make docs`"


def test_the_parameter_file_holds_every_default_with_its_type() -> None:
    content = yaml.safe_load(generate()["src/wallx_bringup/config/so101.yaml"])
    assert list(content) == [f"/**/{spec.node}" for _, spec in all_parameters()]
    for _, spec in all_parameters():
        values = content[f"/**/{spec.node}"]["ros__parameters"]
        for parameter in (*COMMON, *spec.parameters):
            if parameter.required or parameter.example == ():
                assert parameter.name not in values
            else:
                assert parameter.problem(values[parameter.name]) is None
                assert type(values[parameter.name]) in (type(parameter.example), list)


def test_every_parameter_has_its_row_in_the_reference() -> None:
    page = generate()["docs/reference/parameters.md"]
    for _, spec in all_parameters():
        section = page.split(f"## {spec.node} (")[1].split("\n## ")[0]
        assert all(f"| `{p.name}` |" in section for p in spec.parameters)


def test_the_picture_of_states_has_the_arrows_of_the_table() -> None:
    assert drawn() == tabled()
