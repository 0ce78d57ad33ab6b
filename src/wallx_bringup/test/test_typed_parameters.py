"""A text must reach a node as text: the file that carries it is read by ROS, not by us.

ROS reads plain YAML scalars by rules of its own, and a key without ``/**/`` misses a node in a
namespace; both are silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from wallx_bringup.arguments import parse_words, resolve
from wallx_bringup.command_line import parameter_yaml, process_of
from wallx_bringup.graph import NodeProcess

pytestmark = pytest.mark.ros

VALUES = (
    ("text", "put: cube"),
    ("flag", True),
    ("count", 3),
    ("whole_number", 2.0),
    ("tiny", 1e-7),
    ("scale", 0.1),
)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation with one executable, so that none of the workspace's is needed."""
    executable = tmp_path / "prefix" / "lib" / "some_package" / "some_node"
    executable.parent.mkdir(parents=True)
    executable.touch(mode=0o755)
    return tmp_path / "prefix"


@pytest.fixture
def received(tmp_path: Path, prefix: Path):
    """What a real node reports as its parameters when it gets our command line."""
    import rclpy

    def parameters_of(node: NodeProcess) -> dict[str, object]:
        process = process_of(node, tmp_path, {"AMENT_PREFIX_PATH": str(prefix)})
        arguments = process.argv[process.argv.index("--ros-args") :]
        context = rclpy.Context()
        rclpy.init(args=list(arguments), context=context)
        try:
            ros_node = rclpy.create_node(
                "unnamed", context=context, automatically_declare_parameters_from_overrides=True
            )
            assert ros_node.get_fully_qualified_name() == "/left/arm/some_node"
            values = {
                name: parameter.value
                for name, parameter in ros_node.get_parameters_by_prefix("").items()
            }
            ros_node.destroy_node()
            return values
        finally:
            context.try_shutdown()

    return parameters_of


def some_node(parameters, **fields) -> NodeProcess:
    return NodeProcess(
        "some_package", "some_node", "some_node", "/left/arm", tuple(parameters), **fields
    )


TEXTS = (
    *("no", "12", "put: cube", "", "1e3", "0x10", "~", "[a, b]", "{a: b}", "y", "grün 🟢", "$x"),
    *(
        'say "hi"',
        "it's",
        "back\\slash",
        "# no comment",
        " spaces ",
        "two\nlines",
        "%YAML",
        "a/b c",
    ),
)


def test_texts_of_every_kind_arrive_as_they_were_written(received) -> None:
    given = {f"text_{i}": text for i, text in enumerate(TEXTS)}
    values = received(some_node(given.items()))
    assert {name: values[name] for name in given} == given


def test_the_same_holds_from_the_words_of_the_command_line(received) -> None:
    for word in ("no", "12", "put: cube", "", "with space/in path"):
        arguments = resolve(parse_words([f"instruction:={word}"]))
        values = received(some_node([("instruction", arguments.instruction)]))
        assert values["instruction"] == word


def test_types_are_kept(received) -> None:
    values = received(some_node(VALUES))
    for name, value in VALUES:
        assert values[name] == value
        assert type(values[name]) is type(value)


def test_arguments_win_over_the_users_file(received, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**/some_node:\n  ros__parameters: {count: 1, other: 7}\n")
    values = received(some_node([("count", 3)], parameter_files=(str(mine),)))
    assert (values["count"], values["other"]) == (3, 7)


def test_a_key_without_stars_would_miss_the_node(received, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("some_node:\n  ros__parameters: {other: 7}\n")
    assert "other" not in received(some_node([], parameter_files=(str(mine),)))
    assert parameter_yaml(some_node(VALUES)).startswith('"/**/some_node":')
