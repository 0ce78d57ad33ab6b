"""A request to lead must not act after its caller was told that it failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from so101_driver.nodes.teleop_requests import TeleopRequests
from so101_driver.teleop_types import Answer

LEADS = Answer(True, "the leader leads")
PATIENT_S = 20.0


class Caller:
    """Asks in a thread of its own."""

    def __init__(self, requests: TeleopRequests, engage: bool) -> None:
        self.answers: list[Answer] = []
        self._thread = threading.Thread(target=self._ask, args=(requests, engage))
        self._thread.start()

    def _ask(self, requests: TeleopRequests, engage: bool) -> None:
        self.answers.append(requests.ask(engage))

    def heard(self) -> Answer:
        self._thread.join(PATIENT_S)
        return self.answers[0]


@pytest.fixture
def requests() -> Iterator[TeleopRequests]:
    requests = TeleopRequests(PATIENT_S)
    requests.open()
    yield requests
    requests.close()


def taken(requests: TeleopRequests, count: int = 1) -> list[bool]:
    """Take requests as the loop does, until so many have come."""
    kinds: list[bool] = []
    while len(kinds) < count:
        kinds += [request.engage for request in requests.take()]
    return kinds


def test_a_request_reaches_the_loop_and_its_answer_the_caller(requests):
    caller = Caller(requests, True)
    assert taken(requests) == [True]
    requests.answer(LEADS)
    assert caller.heard() == LEADS


def test_letting_go_is_not_kept_waiting_by_a_request_to_lead(requests):
    leads = Caller(requests, True)
    assert taken(requests) == [True]
    lets_go = Caller(requests, False)
    while not (posted := requests.take()):
        pass
    posted[0].answer.set_result(Answer(True, "let go"))
    assert lets_go.heard().sentence == "let go"
    requests.answer(Answer(False, "let go"))
    assert not leads.heard().success


@pytest.mark.parametrize("seen", [False, True], ids=["before the loop saw it", "afterwards"])
def test_a_request_that_nobody_waits_for_any_more_is_followed_by_letting_go(seen: bool):
    requests = TeleopRequests(0.5 if seen else 0.01)
    requests.open()
    caller = Caller(requests, True)
    kinds = taken(requests) if seen else []
    answer = caller.heard()
    assert not answer.success
    assert "does not answer" in answer.sentence
    assert kinds + taken(requests, 1 if seen else 2) == [True, False]


def test_what_is_left_when_the_loop_ends_is_refused_and_forgotten(requests):
    callers = [Caller(requests, True)]
    assert taken(requests) == [True]
    callers.append(Caller(requests, True))
    while not requests._posted:
        pass
    requests.close()
    for caller in callers:
        assert not caller.heard().success
    requests.open()
    assert requests.take() == []


def test_nothing_can_be_asked_while_there_is_no_loop(requests):
    requests.close()
    assert "activate it first" in requests.ask(True).sentence
    requests.open()
    assert requests.take() == []
