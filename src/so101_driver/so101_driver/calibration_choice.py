"""Which calibration file an arm's driver takes when none was given."""

from __future__ import annotations

from collections.abc import Mapping

from so101_driver.calibration_files import ArmKind, calibration_folders, find_calibrations
from so101_driver.errors import UserError


def choose_calibration(
    calibration: str, robot_id: str, environment: Mapping[str, str] | None = None
) -> str:
    """Return the file to load: the one given, else the only one of LeRobot's that fits.

    Args:
        calibration: Path of a file, or empty to look where LeRobot keeps them.
        robot_id: LeRobot's id of the arm, the file's name; empty takes any.
        environment: Variables that say where LeRobot keeps its files.

    Raises:
        UserError: No file fits, or several do; they are listed.
    """
    if calibration:
        return calibration
    found = find_calibrations(ArmKind.FOLLOWER, environment)
    fitting = [path for path in found if robot_id in ("", path.stem)]
    if len(fitting) == 1:
        return str(fitting[0])
    listed = "; ".join(map(str, fitting or found))
    if fitting:
        fix = "give one as calibration" if robot_id else "give its robot_id (the file's name)"
        raise UserError(f"several calibrations could be this arm's: {fix}; there are {listed}.")
    wanted = f"{robot_id}.json" if robot_id else "calibration"
    if found:
        raise UserError(f"there is no {wanted} among LeRobot's calibrations: {listed}.")
    folders = " or ".join(map(str, calibration_folders(ArmKind.FOLLOWER, environment)))
    raise UserError(
        f"there is no {wanted} in {folders}: calibrate the arm (wallx calibrate), or "
        "give the file as calibration."
    )
