"""The rows of the check of the web page, without a browser."""

import time
from types import SimpleNamespace

import web_page_check


def listener_with(*lines: tuple[float, float]) -> SimpleNamespace:
    """A listener that printed decisions: Unix time, rms."""
    return SimpleNamespace(lines=[(when, {"t": 1.0, "rms": rms}) for when, rms in lines])


def test_each_decision_is_matched_with_its_level_on_the_page():
    now = time.time() - 60.0
    listener = listener_with((now - 5.0, 0.5), (now, 0.1), (now + 1.0, 0.1), (now + 2.0, 0.0))
    seen = [((now + 0.25) * 1000, "-20.0 dBFS"), ((now + 1.5) * 1000, "-20.0 dBFS"), ((now + 2.125) * 1000, "silence")]
    late = web_page_check.updates(listener, now - 1.0, seen)
    assert [round(each, 3) for each in late] == [0.25, 0.5, 0.125]
    assert web_page_check.updates(listener, now - 1.0, seen[:2])[2] == float("inf")


def test_delays_are_compared_with_those_without_clients():
    rows = list(web_page_check.compared("50 clients", [1.0] * 99 + [30.0], [2.0] * 98 + [12.5, 41.0]))
    assert [row.ok for row in rows] == [True, False, False]


def test_hostile_requests_must_be_refused():
    (row,) = web_page_check.client_rows("hostile", {"statuses": {"/": "404", "/x": "200 LEAKED"}, "asked": 3})
    assert (row.ok, row.value) == (False, "{'/x': '200 LEAKED'}")
    (row,) = web_page_check.client_rows("silent", {"closed": 4, "still_open": 1, "last_s": 9.0})
    assert not row.ok
    (row,) = web_page_check.client_rows("slow", {"closed": 4, "still_open": 0, "last_s": 5.5})
    assert row.ok
