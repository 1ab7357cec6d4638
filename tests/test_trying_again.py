"""What is asked once more, and when."""

import pytest

from sfss.trying_again import LONGEST_WAIT_S, asked_wait_s, growing_pause_s, may_pass, pause_s


@pytest.mark.parametrize("status", [None, 408, 425, 429, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int | None) -> None:
    assert may_pass(status)
    assert pause_s(status, 1, 1.0, None) == 0.2


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 412, 413, 500, 501, 507])
def test_what_stays_is_not(status: int) -> None:
    assert not may_pass(status)
    assert pause_s(status, 1, 1.0, 1.0) is None


def test_pauses_grow_and_are_bounded() -> None:
    assert [growing_pause_s(tries, 1.0) for tries in (1, 2, 3, 4)] == [0.2, 0.4, 0.8, 1.6]
    assert growing_pause_s(1, 0.0) == 0.1
    assert growing_pause_s(100, 1.0) == 8.0


def test_a_server_says_when_to_come_back() -> None:
    assert pause_s(503, 1, 1.0, 5.0) == 5.0
    assert pause_s(503, 6, 1.0, 5.0) == 6.4, "not before the growing pause is over"
    assert pause_s(429, 1, 1.0, LONGEST_WAIT_S) == LONGEST_WAIT_S
    assert pause_s(429, 1, 1.0, LONGEST_WAIT_S + 1) is None


@pytest.mark.parametrize(
    ("field", "seconds"),
    [("0", 0.0), ("120", 120.0), ("", None), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)],
)
def test_retry_after_is_read(field: str, seconds: float | None) -> None:
    assert asked_wait_s(field) == seconds
