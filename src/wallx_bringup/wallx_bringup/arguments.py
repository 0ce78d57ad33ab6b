"""The launch arguments: one table for ``ros2 launch``, ``wallx up`` and the documentation."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from so101_driver.calibration_choice import choose_calibration
from so101_driver.errors import UserError
from so101_driver.joints import data_path

Value = bool | int | float | str

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_TOPIC = re.compile(r"^/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")
EMPTY = "''"
"""How an empty text is written where ``name:=`` is not allowed (`ros2 launch`)."""

OFF = "off"
"""Instead of a geometry file: none."""

NO_POLICY = "none"
"""Instead of a backend: no policy is started."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One launch argument.

    Attributes:
        name: As in ``name:=value``.
        sim: Default with the simulated arm; its type is the argument's type.
        real: Default with a real arm.
        description: One sentence for a user.
        choices: Legal values of a text, empty for any.
        minimum: Smallest legal number.
        maximum: Largest legal number.
        is_topic: Whether the text must be a topic name or a namespace (or empty).
        is_path: Whether the text is a path; it is made absolute and ``~`` is expanded.
        instead: A word that may stand instead of the path, e.g. ``off``.
    """

    name: str
    sim: Value
    real: Value
    description: str
    choices: tuple[str, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    is_topic: bool = False
    is_path: bool = False
    instead: str = ""

    @property
    def help(self) -> str:
        """The description, with the default of a real arm where it differs."""
        if self.sim == self.real:
            return self.description
        return f"{self.description} With sim:=false the default is {as_text(self.real) or EMPTY}."

    def parse(self, text: str) -> Value:
        """Return the typed value of what a user wrote; text stays text whatever it looks like.

        Raises:
            UserError: The text is no value of this argument.
        """
        if isinstance(self.sim, bool):
            if text.lower() in _TRUE + _FALSE:
                return text.lower() in _TRUE
            raise UserError(f"argument '{self.name}' must be true or false, not '{text}'.")
        if isinstance(self.sim, (int, float)):
            return self._number(text, type(self.sim))
        if text == EMPTY:
            text = ""
        if self.choices and text not in self.choices:
            raise UserError(
                f"argument '{self.name}' must be one of {', '.join(self.choices)}, not '{text}'"
                f"{_did_you_mean(text, self.choices)}."
            )
        if self.is_topic and text and not _TOPIC.match(text):
            raise UserError(
                f"argument '{self.name}' must be a ROS name such as arm_1/image_raw (letters, "
                f"digits, _ and /), not '{text}'."
            )
        if self.is_path and text and text != self.instead:
            # The shell does not expand the ~ of `name:=~/file`.
            text = str(Path(text).expanduser().absolute())
        return text

    def _number(self, text: str, kind: type[int] | type[float]) -> int | float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not self.minimum <= number <= self.maximum:
            what = "a whole number" if kind is int else "a number"
            raise UserError(
                f"argument '{self.name}' must be {what} from {self.minimum:g} to "
                f"{self.maximum:g}, not '{text}'."
            )
        return number


ARGUMENTS: tuple[Argument, ...] = (
    Argument("sim", True, True, "Simulate the arm and its cameras instead of opening a port."),
    Argument(
        "port",
        "",
        "/dev/ttyACM0",
        "Serial port of the servo bus; with the simulator its pseudo-terminal is used.",
    ),
    Argument(
        "calibration",
        "",
        "",
        "LeRobot calibration file (JSON) of the arm; empty takes the simulated arm's own, or with "
        "sim:=false the only one that LeRobot has of a follower.",
        is_path=True,
    ),
    Argument(
        "robot_id",
        "",
        "",
        "LeRobot's id of the arm, to choose among its calibrations instead of giving a file.",
    ),
    Argument(
        "checkpoint",
        "",
        "",
        "Folder of the trained policy, for the backends that load one.",
        is_path=True,
    ),
    Argument("device", "cpu", "cpu", "Where the policy runs, as torch names it, e.g. cuda:0."),
    Argument(
        "backend",
        "expert",
        "wall_oss",
        "Policy backend: wall_oss, expert, hold, sine, or one that another package brings; none "
        "starts no policy, which is the default with teleop:=true.",
    ),
    Argument(
        "mode",
        "full",
        "shadow",
        "How commands reach the arm: shadow moves nothing, scaled moves slowly, full follows.",
        choices=("shadow", "scaled", "full"),
    ),
    Argument(
        "scale",
        0.15,
        0.15,
        "Share of the requested speed in mode scaled.",
        minimum=0.1,
        maximum=0.2,
    ),
    Argument(
        "arm",
        "auto",
        "manual",
        "auto arms as soon as everything is ready (simulator only), manual waits for safety/arm.",
        choices=("auto", "manual"),
    ),
    Argument(
        "instruction",
        "put the red cube into the tray",
        "",
        "What the arm shall do, in plain words; it can be changed on the topic 'instruction'.",
    ),
    Argument(
        "seed", 0, 0, "Where the simulator puts the cubes at start.", minimum=0, maximum=2**31
    ),
    Argument(
        "record",
        "",
        "",
        "Folder that receives an MCAP bag of the run; empty: no bag.",
        is_path=True,
    ),
    Argument("rviz", False, False, "Start rviz2 with the suite's view."),
    Argument("namespace", "", "", "Namespace of every node and topic, one per arm.", is_topic=True),
    Argument(
        "estop_topic",
        "estop",
        "estop",
        "Topic of the emergency stop; an absolute name is one button for several arms.",
        is_topic=True,
    ),
    Argument(
        "use_sim_time",
        False,
        False,
        "Take ROS time from /clock; the simulator publishes none and a real port refuses it.",
    ),
    Argument(
        "face_topic",
        "camera/face_view/image_raw",
        "camera/face_view/image_raw",
        "Image topic of the camera that faces the arm.",
        is_topic=True,
    ),
    Argument(
        "wrist_topic",
        "camera/wrist_view/image_raw",
        "camera/wrist_view/image_raw",
        "Image topic of the camera on the wrist.",
        is_topic=True,
    ),
    Argument(
        "face_camera",
        "",
        "",
        "Camera that faces the arm: device (best a link below /dev/v4l/by-id), video file or "
        "folder of pictures; empty starts none. In simulation it replaces the simulated view.",
        is_path=True,
    ),
    Argument(
        "wrist_camera",
        "",
        "",
        "Camera on the wrist, like face_camera.",
        is_path=True,
    ),
    Argument(
        "teleop",
        False,
        False,
        "Let a leader arm lead the arm; needs leader_port and leader_calibration.",
    ),
    Argument("leader_port", "", "", "Serial port of the leader arm."),
    Argument(
        "leader_calibration",
        "",
        "",
        "LeRobot calibration file (JSON) of the leader arm.",
        is_path=True,
    ),
    Argument(
        "clutch",
        "align",
        "align",
        "How engaging teleoperation avoids a jump: align wants the arms in the same pose, offset "
        "lets their distance fade, relative keeps it.",
        choices=("align", "offset", "relative"),
    ),
    Argument(
        "on_exit",
        "hold",
        "hold",
        "What the driver does when it ends: hold the arm, or ramp_down its torque slowly.",
        choices=("hold", "ramp_down"),
    ),
    Argument(
        "limits_file",
        "",
        "",
        "Safety limits (YAML); empty takes the so101_limits.yaml that ships with so101_driver.",
        is_path=True,
    ),
    Argument("limits_profile", "demo", "cautious", "Profile within the limits file."),
    Argument(
        "geometry",
        "",
        "",
        "Table, workspace and shape of the arm (YAML), which commands keep clear of; empty takes "
        "the so101_geometry.yaml that ships with so101_driver, off checks nothing.",
        is_path=True,
        instead=OFF,
    ),
    Argument(
        "params_file",
        "",
        "",
        "Your parameter file (start from config/so101.yaml); arguments of this table win over it.",
        is_path=True,
    ),
)
"""Every launch argument, in the order of the documentation."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Typed values of all launch arguments; `ARGUMENTS` says what each means."""

    sim: bool
    port: str
    calibration: str
    robot_id: str
    checkpoint: str
    device: str
    backend: str
    mode: str
    scale: float
    arm: str
    instruction: str
    seed: int
    record: str
    rviz: bool
    namespace: str
    estop_topic: str
    use_sim_time: bool
    face_topic: str
    wrist_topic: str
    face_camera: str
    wrist_camera: str
    teleop: bool
    leader_port: str
    leader_calibration: str
    clutch: str
    on_exit: str
    limits_file: str
    limits_profile: str
    geometry: str
    params_file: str
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """Names that the user gave; the others have their defaults."""


def resolve(given: Mapping[str, str]) -> Arguments:
    """Return the value of every argument from those that a user gave.

    Raises:
        UserError: An unknown name, an illegal value, or values that do not go together.
    """
    known = {argument.name: argument for argument in ARGUMENTS}
    for name in given:
        if name not in known:
            raise UserError(
                f"there is no argument '{name}'{_did_you_mean(name, known)}; "
                f"the arguments are: {', '.join(known)}."
            )
    values: dict[str, Value] = {name: known[name].parse(text) for name, text in given.items()}
    sim = bool(values.get("sim", known["sim"].sim))
    if values.get("teleop"):
        values.setdefault("backend", NO_POLICY)
    for argument in ARGUMENTS:
        values.setdefault(argument.name, argument.sim if sim else argument.real)
    arguments = Arguments(**values, given=frozenset(given))  # type: ignore[arg-type]
    _check(arguments)
    simulated = str(data_path("sim_calibration.json")) if sim else ""
    return replace(
        arguments,
        calibration=choose_calibration(arguments.calibration or simulated, arguments.robot_id),
        limits_file=arguments.limits_file or str(data_path("so101_limits.yaml")),
        geometry=arguments.geometry or str(data_path("so101_geometry.yaml")),
    )


def _check(a: Arguments) -> None:
    if not a.sim and a.arm == "auto":
        raise UserError(
            "argument 'arm' cannot be auto with sim:=false: start with arm:=manual and call "
            "safety/arm when everybody is clear of the arm."
        )
    if not a.sim and a.use_sim_time:
        raise UserError(
            "argument 'use_sim_time' cannot be true with sim:=false: a real arm runs on the clock "
            "of the machine; leave it out."
        )
    if a.sim and a.port:
        raise UserError(
            f"argument 'port' is '{a.port}' but the arm is simulated: add sim:=false to open it."
        )
    if a.robot_id and (a.sim or a.calibration):
        why = "the arm is simulated" if a.sim else "a calibration is given too"
        raise UserError(f"argument 'robot_id' is '{a.robot_id}' but {why}: leave one of them out.")
    if not a.estop_topic:
        raise UserError("argument 'estop_topic' is empty: give a topic name, e.g. estop.")
    for name in ("face_topic", "wrist_topic"):
        if not getattr(a, name):
            raise UserError(f"argument '{name}' is empty: give the camera's image topic.")
    if a.face_camera and a.wrist_camera and _same_device(a.face_camera, a.wrist_camera):
        raise UserError(
            f"arguments 'face_camera' and 'wrist_camera' are both {a.wrist_camera}: one camera "
            "cannot be opened twice; `wallx find-cameras` shows which is which."
        )
    _check_teleop(a)


def _check_teleop(a: Arguments) -> None:
    leader = {"leader_port": a.leader_port, "leader_calibration": a.leader_calibration}
    missing = [name for name, value in leader.items() if not value]
    if a.teleop and missing:
        raise UserError(
            f"teleop:=true needs {' and '.join(missing)}: the serial port of the leader arm, e.g. "
            "/dev/ttyACM1, and its LeRobot file, e.g. "
            "~/.cache/huggingface/lerobot/calibration/teleoperators/so_leader/my_leader.json"
        )
    unused = [name for name in (*leader, "clutch") if name in a.given and getattr(a, name)]
    if unused and not a.teleop:
        raise UserError(f"argument '{unused[0]}' is given but nothing uses it: add teleop:=true.")
    if a.teleop and _same_device(a.leader_port, a.port):
        raise UserError(
            f"arguments 'port' and 'leader_port' are both {a.leader_port}: the leader has a port "
            "of its own; `wallx find-port` shows which is which."
        )


def _same_device(one: str, other: str) -> bool:
    """Whether two names lead to one device: it has links that stay, by serial number and plug."""
    return Path(one).resolve() == Path(other).resolve()


def parse_words(words: Iterable[str]) -> dict[str, str]:
    """Split ``name:=value`` words as a command line has them; the last of a name wins.

    Raises:
        UserError: A word is not of that form.
    """
    given: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            raise UserError(f"'{word}' is not of the form name:=value, e.g. mode:=shadow.")
        given[name] = value
    return given


def as_text(value: Value) -> str:
    """Return a value as a user would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
