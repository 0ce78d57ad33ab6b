"""A driver without a calibration may take LeRobot's, but must not guess between two arms."""

import pytest
from so101_driver.calibration_choice import choose_calibration
from so101_driver.errors import UserError


@pytest.fixture
def folder(tmp_path):
    def put(*names):
        for name in names:
            path = tmp_path / "robots" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")

    put.environment = {"HF_LEROBOT_CALIBRATION": str(tmp_path)}
    return put


def test_the_file_given_is_taken_unseen(folder):
    assert choose_calibration("/some/where.json", "", folder.environment) == "/some/where.json"


def test_the_only_one_is_taken(folder):
    folder("so_follower/kitchen.json")
    found = choose_calibration("", "", folder.environment)
    assert found.endswith("robots/so_follower/kitchen.json")


@pytest.mark.parametrize("kind", ["so_follower", "so101_follower", "so100_follower"])
def test_an_id_finds_its_file_in_every_folder_of_lerobots(folder, kind):
    folder("so_follower/other.json", f"{kind}/kitchen.json")
    found = choose_calibration("", "kitchen", folder.environment)
    assert found.endswith(f"{kind}/kitchen.json")


def test_several_are_listed_with_the_fix(folder):
    folder("so_follower/left.json", "so_follower/right.json")
    with pytest.raises(UserError, match=r"give its robot_id.*left\.json; .*right\.json"):
        choose_calibration("", "", folder.environment)


def test_the_same_id_in_two_folders_is_not_guessed(folder):
    folder("so_follower/kitchen.json", "so101_follower/kitchen.json")
    with pytest.raises(UserError, match="give one as calibration"):
        choose_calibration("", "kitchen", folder.environment)


def test_an_unknown_id_lists_what_there_is(folder):
    folder("so_follower/left.json")
    with pytest.raises(UserError, match=r"no kitchen\.json among .*left\.json"):
        choose_calibration("", "kitchen", folder.environment)


def test_none_at_all_names_the_folders_and_the_program(folder):
    with pytest.raises(UserError, match=r"so_follower or .*wallx calibrate"):
        choose_calibration("", "", folder.environment)
