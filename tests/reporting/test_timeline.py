"""Traces and waits by hand."""

import json

import pytest

from vlarl.reporting.timeline import Recorder, Span, compute_waits, format_waits, write_trace

SPANS = [
    Span(role="generator", name="collect", start=10.0, end=16.0),
    Span(role="trainer", name="learn", start=16.0, end=19.0),
    Span(role="trainer", name="publish", start=19.0, end=20.0),
]


def test_who_waited_for_whom():
    waits = compute_waits(SPANS)
    assert waits["generator"] == pytest.approx({"busy": 0.6, "trainer": 0.4})
    assert waits["trainer"] == pytest.approx({"busy": 0.4, "generator": 0.6})
    assert format_waits(waits)[0] == "generator: worked 60% of the time; waited 40% for trainer"


def test_overlapping_roles_share_a_wait():
    third = [*SPANS, Span(role="worker", name="run", start=14.0, end=20.0)]
    waits = compute_waits(third)
    # 14 to 16: generator and worker work. 16 to 20: trainer and worker do.
    assert waits["generator"] == pytest.approx({"busy": 0.6, "trainer": 0.2, "worker": 0.2})
    assert waits["trainer"] == pytest.approx({"busy": 0.4, "generator": 0.5, "worker": 0.1})
    assert waits["worker"] == pytest.approx({"busy": 0.6, "generator": 0.4, "trainer": 0.0})


def test_nothing_recorded():
    assert compute_waits([]) == {}
    assert format_waits({}) == []


def test_the_trace_is_chromes(tmp_path):
    write_trace(SPANS, tmp_path / "timeline.json")
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["generator", "trainer"]
    learn = next(e for e in events if e["name"] == "learn")
    assert (learn["ph"], learn["pid"], learn["ts"], learn["dur"]) == ("X", 1, 16_000_000, 3_000_000)


def test_a_block_that_fails_is_recorded_once():
    recorder = Recorder("trainer")
    with pytest.raises(KeyError), recorder.span("learn"):
        raise KeyError
    (span,) = recorder.take()
    assert span.name == "learn" and span.end >= span.start
    assert recorder.take() == []
