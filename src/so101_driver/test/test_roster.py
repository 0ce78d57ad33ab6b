"""A servo that is silent must not cost the others their turn, and must be found when it is back."""

from so101_driver.joints import SERVO_IDS
from so101_driver.roster import ASK_SILENT_EVERY, SILENT_AFTER, Roster


def read(roster, mute=()):
    asked = roster.asked()
    roster.heard(asked, [i for i in asked if i in mute])
    return asked


def test_all_are_asked_in_order_while_all_answer():
    roster = Roster(SERVO_IDS)
    for _ in range(3 * ASK_SILENT_EVERY):
        assert read(roster) == SERVO_IDS


def test_who_was_missing_is_asked_last():
    roster = Roster(SERVO_IDS)
    read(roster, mute=(2,))
    assert read(roster) == (1, 3, 4, 5, 6, 2)


def test_a_silent_servo_is_asked_seldom_and_comes_back_with_its_first_answer():
    roster = Roster(SERVO_IDS)
    for _ in range(SILENT_AFTER):
        assert 4 in read(roster, mute=(4,))
    asked = [4 in read(roster, mute=(4,)) for _ in range(5 * ASK_SILENT_EVERY)]
    assert sum(asked) == 5
    while 4 not in read(roster):
        pass
    assert 4 in read(roster)


def test_silent_servos_are_asked_in_turn():
    roster = Roster(SERVO_IDS)
    for _ in range(SILENT_AFTER):
        read(roster, mute=(2, 5))
    asked = [read(roster, mute=(2, 5)) for _ in range(4 * ASK_SILENT_EVERY)]
    assert sum(2 in ids for ids in asked) == sum(5 in ids for ids in asked) == 2
    assert all(len(ids) <= 5 for ids in asked)


def test_while_nobody_answers_all_are_asked_and_another_one_first_each_time():
    roster = Roster(SERVO_IDS)
    asked = [read(roster, mute=SERVO_IDS) for _ in range(12)]
    assert all(sorted(ids) == list(SERVO_IDS) for ids in asked)
    assert {ids[0] for ids in asked} == set(SERVO_IDS)
