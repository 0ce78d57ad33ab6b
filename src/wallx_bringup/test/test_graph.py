"""The graph is data: what each argument changes can be read off it without starting anything."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from so101_driver.errors import UserError
from so101_driver.joints import data_path
from so101_driver.parameter_spec import COMMON, NodeParameters
from wallx_bringup.arguments import resolve
from wallx_bringup.graph import NodeProcess, build_graph
from wallx_bringup.processes import REFUSED_STATUS, stops_graph

SHARE = Path(__file__).resolve().parents[1]


@pytest.fixture
def graph(tmp_path: Path):
    def build(environment: dict[str, str] | None = None, **given: str) -> dict[str, NodeProcess]:
        nodes = build_graph(resolve(given), tmp_path / "run", environment or {}, SHARE)
        return {node.name: node for node in nodes}

    return build


@pytest.fixture
def real(graph, tmp_path: Path):
    calibration = tmp_path / "arm.json"
    calibration.write_text("{}")
    return lambda **given: graph(sim="false", calibration=str(calibration), **given)


def parameter_specs() -> dict[str, NodeParameters]:
    modules = [f"so101_driver.{name}_parameters" for name in ("sim", "driver", "safety", "teleop")]
    modules += [f"wallx_policy.{name}_parameters" for name in ("policy", "trace", "recorder")]
    specs = [importlib.import_module(module).PARAMETERS for module in modules]
    camera = importlib.import_module("so101_driver.camera_parameters").PARAMETERS
    return {**{spec.node: spec for spec in specs}, "face_camera": camera, "wrist_camera": camera}


@pytest.fixture
def optional(tmp_path: Path) -> dict[str, str]:
    """Arguments of the nodes that are started only when they are asked for."""
    (tmp_path / "leader.json").write_text("{}")
    (tmp_path / "wrist.mp4").touch()
    return {
        "face_camera": "/dev/video7",
        "wrist_camera": str(tmp_path / "wrist.mp4"),
        "teleop": "true",
        "leader_port": "/dev/ttyACM1",
        "leader_calibration": str(tmp_path / "leader.json"),
    }


def test_the_simulated_graph_has_these_processes_in_this_order(graph, tmp_path) -> None:
    assert list(graph()) == ["sim", "driver", "safety", "policy", "trace"]
    assert list(graph(record=str(tmp_path / "bag")))[-1] == "recorder"


def test_a_real_arm_has_no_simulator_and_the_given_port(real) -> None:
    nodes = real(port="/dev/ttyUSB7")
    assert list(nodes) == ["driver", "safety", "policy", "trace"]
    assert dict(nodes["driver"].parameters)["port"] == "/dev/ttyUSB7"
    assert dict(nodes["safety"].parameters)["arm"] == "manual"
    assert dict(nodes["safety"].parameters)["mode"] == "shadow"


def test_driver_and_simulator_meet_at_the_same_link_and_calibration(graph) -> None:
    nodes = graph()
    sim, driver = dict(nodes["sim"].parameters), dict(nodes["driver"].parameters)
    assert sim["port_link"] == driver["port"]
    assert sim["calibration"] == driver["calibration"]


def test_driver_and_safety_share_their_limits(graph) -> None:
    driver, safety = (dict(graph()[name].parameters) for name in ("driver", "safety"))
    for name in ("limits_file", "limits_profile", "calibration"):
        assert driver[name] == safety[name]


@pytest.mark.parametrize("simulated", [True, False])
def test_every_parameter_exists_in_its_node_with_that_type_and_none_is_missing(
    graph, real, tmp_path, optional, simulated: bool
) -> None:
    build = graph if simulated else real
    nodes = build(record=str(tmp_path / "bag"), backend="hold", **optional)
    assert {"face_camera", "wrist_camera", "teleop", "policy"} <= set(nodes)
    for name, node in nodes.items():
        spec = parameter_specs()[name]
        known = {p.name: p for p in (*COMMON, *spec.parameters)}
        given = dict(node.parameters)
        assert given.pop("use_sim_time") is False
        for parameter, value in given.items():
            assert known[parameter].problem(value) is None
        assert {p.name for p in known.values() if p.required} <= set(given)


def test_the_namespace_holds_every_node(graph) -> None:
    assert {node.namespace for node in graph(namespace="left/arm").values()} == {"/left/arm"}
    assert {node.namespace for node in graph().values()} == {"/"}


def test_one_global_button_stops_safety_and_driver(graph) -> None:
    nodes = graph(estop_topic="/estop")
    for name in ("safety", "driver"):
        assert ("estop", "/estop") in nodes[name].remappings


def test_camera_topics_are_remapped_with_the_names_below_them(graph, tmp_path) -> None:
    nodes = graph(face_topic="/cam0/image", record=str(tmp_path / "bag"))
    for name in ("policy", "recorder"):
        assert nodes[name].remappings == (
            ("camera/face_view/image_raw", "/cam0/image"),
            ("camera/face_view/image_raw/compressed", "/cam0/image/compressed"),
        )


def test_cameras_are_started_for_the_views_that_were_given(real, optional) -> None:
    assert not {"face_camera", "wrist_camera"} & set(real())
    nodes = real(face_camera="/dev/video7")
    assert "wrist_camera" not in nodes
    camera = nodes["face_camera"]
    assert (camera.package, camera.executable) == ("so101_driver", "camera_node")
    given = dict(camera.parameters)
    assert (given["device"], given["view"]) == ("/dev/video7", "face_view")
    assert camera.remappings == ()
    nodes = real(**optional)
    given = dict(nodes["wrist_camera"].parameters)
    assert (given["device"], given["view"]) == (optional["wrist_camera"], "wrist_view")
    assert not stops_graph(camera.on_death, -9), "without pictures the policy waits, the arm holds"


def test_a_camera_publishes_where_policy_and_recorder_listen(real) -> None:
    nodes = real(face_camera="/dev/video7", face_topic="/left/face/image")
    assert set(nodes["face_camera"].remappings) <= set(nodes["policy"].remappings)
    assert ("camera/face_view/image_raw", "/left/face/image") in nodes["face_camera"].remappings


def test_in_simulation_a_camera_replaces_the_simulated_view_and_no_other(graph, optional) -> None:
    sim = graph(face_camera="/dev/video7")["sim"]
    assert ("camera/face_view/image_raw", "sim/camera/face_view/image_raw") in sim.remappings
    assert len(sim.remappings) == 3
    assert all("face_view" in source for source, _ in sim.remappings)
    assert "cameras" not in dict(sim.parameters)
    both = graph(**optional)["sim"]
    assert dict(both.parameters)["cameras"] is False
    assert graph()["sim"].remappings == ()


def test_teleoperation_replaces_the_policy_unless_one_is_named(real, optional, tmp_path) -> None:
    nodes = real(**optional)
    assert "policy" not in nodes
    given = dict(nodes["teleop"].parameters)
    assert given["port"] == "/dev/ttyACM1"
    assert given["calibration"] == optional["leader_calibration"]
    assert given["follower_calibration"] == dict(nodes["driver"].parameters)["calibration"]
    assert nodes["teleop"].executable == "teleop_node"
    assert given["clutch"] == "align"
    assert dict(real(**optional, clutch="offset")["teleop"].parameters)["clutch"] == "offset"
    assert {"policy", "teleop"} <= set(real(**optional, backend="hold"))
    assert "policy" not in real(backend="none")
    assert "teleop" not in real()


def test_what_the_user_set_in_the_environment_stays(graph) -> None:
    assert ("OMP_NUM_THREADS", "1") in graph()["policy"].environment
    assert "OMP_NUM_THREADS" not in dict(graph({"OMP_NUM_THREADS": "4"})["policy"].environment)


def test_no_node_uses_shared_memory_unless_the_user_says_so(graph) -> None:
    """Fast DDS may let `publish` sleep 333 ms when a new process listens by shared memory."""
    variable = "FASTDDS_BUILTIN_TRANSPORTS"
    assert {dict(node.environment)[variable] for node in graph().values()} == {"UDPv4"}
    for mine in ({variable: "SHM"}, {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}):
        assert not any(variable in dict(node.environment) for node in graph(mine).values())


def test_only_the_slow_nodes_are_niced(graph) -> None:
    assert {name for name, node in graph().items() if node.nice > 0} == {"policy", "trace"}


def test_geometry_is_on_unless_it_is_switched_off(graph, tmp_path) -> None:
    def given(**arguments: str) -> str:
        return dict(graph(**arguments)["safety"].parameters)["geometry_file"]

    assert given() == str(data_path("so101_geometry.yaml"))
    assert given(geometry="off") == ""
    mine = tmp_path / "off.yaml"
    mine.touch()
    assert given(geometry=str(mine)) == str(mine)


@pytest.mark.parametrize(
    "name",
    [
        *("calibration", "checkpoint", "limits_file", "geometry", "params_file"),
        *("face_camera", "wrist_camera"),
    ],
)
def test_a_missing_file_is_named_with_its_argument(graph, name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}': /no/such/file cannot be read"):
        graph(**{name: "/no/such/file"})


def test_a_bag_is_never_overwritten(graph, tmp_path) -> None:
    with pytest.raises(UserError, match=r"'record'.*exists already"):
        graph(record=str(tmp_path))


def test_rviz_where_there_is_none_is_refused_with_the_fix(graph, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no rviz2 on this machine.*rviz2"):
        graph(rviz="true")


def test_rviz_where_it_exists_shows_the_view_of_the_suite(graph, monkeypatch, tmp_path) -> None:
    (tmp_path / "rviz2").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    rviz = graph(rviz="true")["rviz"]
    assert Path(rviz.arguments[1]).is_file()


@pytest.mark.parametrize(
    ("node", "status", "stops"),
    [
        ("driver", -9, True),
        ("sim", -11, True),
        ("policy", -9, False),
        ("safety", -9, False),
        ("policy", REFUSED_STATUS, True),
        ("trace", 0, False),
    ],
)
def test_the_driver_stops_everything_and_the_policys_death_means_hold(
    graph, node: str, status: int, stops: bool
) -> None:
    assert stops_graph(graph()[node].on_death, status) is stops
