"""Statistics that are missing, or that no data can have, are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from breaking import (
    LEROBOT,
    WALLX,
    WEIGHTS,
    edit_json,
    edit_tensors,
    load_file,
    one_of,
    only,
    refused,
)
from safetensors.torch import save_file
from wallx_policy.model import load_policy


class TestStatistics:
    """What turns the model's numbers into angles and back."""

    @only(*WALLX)
    @pytest.mark.parametrize("feature", ["action", "propri"])
    @pytest.mark.parametrize("kind", ["min", "delta"])
    def test_of_wallx(self, folder: Path, feature: str, kind: str) -> None:
        whole = load_file(folder / WEIGHTS)
        name = one_of(whole, (f"normalizer_{feature}.{kind}.",))
        for change, words in (
            (lambda t: t.pop(name), (kind, feature)),
            (lambda t: t[name].fill_(torch.nan), (name, "not finite")),
            (lambda t: t.update({name: t[name][:-1].clone()}), ("differ in size", feature)),
        ):
            edit_tensors(folder, change)
            refused(folder, *words)
            save_file(whole, folder / WEIGHTS)

    @only(*WALLX)
    @pytest.mark.parametrize("feature", ["action", "propri"])
    def test_of_wallx_upside_down(self, folder: Path, feature: str) -> None:
        def turn(tensors: dict[str, torch.Tensor]) -> None:
            tensors[one_of(tensors, (f"normalizer_{feature}.delta.",))][2] = -1.0

        edit_tensors(folder, turn)
        refused(folder, f"delta of {feature} is below 0 in column 2")

    @only(*WALLX)
    @pytest.mark.parametrize("feature", ["action", "propri"])
    def test_of_wallx_with_another_width(self, folder: Path, feature: str) -> None:
        def cut(tensors: dict[str, torch.Tensor]) -> None:
            for name in [name for name in tensors if f"normalizer_{feature}" in name]:
                tensors[name] = tensors[name][:4].clone()

        edit_tensors(folder, cut)
        words = {"action": "action", "propri": "state"}
        refused(folder, f"statistics of the {words[feature]} have 4 columns")

    @only("wall05-pth")
    @pytest.mark.parametrize("feature", ["action", "propri"])
    def test_pickled(self, folder: Path, feature: str) -> None:
        path = folder / f"normalizer_{feature}.pth"
        good = torch.load(path, weights_only=True)
        key = "delta.so101_sim"
        for content, words in (
            ({k: v for k, v in good.items() if k != key}, f"delta of {feature}"),
            ({**good, key: torch.full((26,), torch.nan)}, f"{key} is not finite"),
            ({**good, key: -good[key]}, f"delta of {feature} is below 0"),
            ({**good, key: good[key][:3]}, "differ in size"),
            ({**good, "scale.so101_sim": good[key]}, "scale.so101_sim"),
            (good[key], "tensors by name"),
        ):
            torch.save(content, path)
            refused(folder, words)
        path.write_bytes(path.read_bytes()[:-50])
        refused(folder, path.name)
        path.unlink()
        refused(folder, path.name, "missing")

    @only(*LEROBOT)
    @pytest.mark.parametrize("feature", ["observation.state", "action"])
    def test_of_lerobot(self, folder: Path, feature: str) -> None:
        names = ("mean", "std") if folder.name == "lerobot" else ("q01", "q99")
        step = "unnormalizer" if feature == "action" else "step_*_normalizer"
        path = next(iter(folder.glob(f"policy_*processor_*{step}_processor.safetensors")))
        whole = load_file(path)
        for name in names:
            key = f"{feature}.{name}"
            rest = {k: v for k, v in whole.items() if k != key}
            bad = whole[key].clone()
            bad[1] = torch.nan
            for tensors, words in (
                (rest, f"{name} is missing"),
                ({**rest, key: bad}, f"{key} is not finite"),
                ({**rest, key: whole[key][:-1].clone()}, f"{feature}."),
                ({**rest, key: whole[key][None]}, key),
            ):
                save_file(tensors, path)
                refused(folder, path.name, words)
        save_file(whole, path)
        load_policy(folder)
        path.write_bytes(path.read_bytes()[:-3])
        refused(folder, path.name, "cannot be read")
        path.unlink()
        refused(folder, path.name)

    @only(*LEROBOT)
    def test_of_lerobot_upside_down(self, folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            if path.name != WEIGHTS:
                tensors = load_file(path)
                for feature in ("observation.state", "action"):
                    tensors[f"{feature}.std"][1] = -1.0
                    tensors[f"{feature}.q99"][1] = tensors[f"{feature}.q01"][1] - 1.0
                save_file(tensors, path)
        refused(folder, "observation.state.", "in column 1")

    @only("lerobot")
    def test_a_state_that_never_moved(self, folder: Path) -> None:
        """Any reading besides the one of training would become a number of millions."""
        path = next(iter(folder.glob("policy_preprocessor_*.safetensors")))
        tensors = load_file(path)
        tensors["observation.state.std"][4] = 0.0
        save_file(tensors, path)
        refused(folder, path.name, "observation.state.std", "column 4")

    @only("lerobot")
    def test_an_action_that_never_moved_is_a_constant(self, folder: Path) -> None:
        path = next(iter(folder.glob("policy_postprocessor_*.safetensors")))
        tensors = load_file(path)
        tensors["action.std"][4] = 0.0
        save_file(tensors, path)
        load_policy(folder)
        tensors["action.std"][4] = -1.0
        save_file(tensors, path)
        refused(folder, path.name, "action.std", "column 4")

    @only(*LEROBOT)
    @pytest.mark.parametrize("which", ["pre", "post"])
    def test_processors(self, folder: Path, which: str) -> None:
        path = folder / f"policy_{which}processor.json"
        text = path.read_text()
        kind = "STATE" if which == "pre" else "ACTION"

        def norm(content: dict) -> dict:
            return next(s for s in content["steps"] if "normalizer" in s["registry_name"])

        changes: list[tuple[Callable[[dict], object], str]] = [
            (lambda c: norm(c)["config"]["norm_map"].pop(kind), f"nothing of {kind}"),
            (lambda c: norm(c)["config"].pop("norm_map"), f"nothing of {kind}"),
            (lambda c: norm(c)["config"]["norm_map"].update({kind: "Z_SCORE"}), "Z_SCORE"),
            (lambda c: norm(c).update(state_file="../s.safetensors"), "must lie in the folder"),
            (lambda c: norm(c).pop("state_file"), "is missing"),
            (lambda c: c["steps"].remove(norm(c)), "normalizer_processor"),
            (lambda c: c["steps"].append(norm(c)), "twice"),
            (lambda c: norm(c).update(registry_name="my_own_step"), "my_own_step"),
        ]
        for change, words in changes:
            edit_json(path, change)
            refused(folder, words)
            path.write_text(text)
        path.unlink()
        refused(folder, path.name, "missing")

    @only("lerobot05")
    def test_a_clamp_before_the_normaliser(self, folder: Path) -> None:
        path = folder / "policy_preprocessor.json"
        edit_json(path, lambda c: c["steps"].insert(0, c["steps"].pop(6)))
        refused(folder, path.name, "wall_oss_05_clamp_normalized", "order")
