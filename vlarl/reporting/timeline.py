"""Where the time goes: spans of work of every role, as a trace for Perfetto or chrome://tracing, and as a table."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from vlarl.files import write_text


@dataclass(frozen=True, kw_only=True)
class Span:
    """Work of a role, seconds since the epoch."""

    role: str
    name: str
    start: float
    end: float


class Recorder:
    """Collects the spans of one role."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._spans: list[Span] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Records the block, whatever ends it."""
        start = time.time()
        try:
            yield
        finally:
            self._spans.append(Span(role=self._role, name=name, start=start, end=time.time()))

    def take(self) -> list[Span]:
        """Returns the spans since the last call."""
        spans, self._spans = self._spans, []
        return spans


def write_trace(spans: Iterable[Span], path: Path) -> None:
    """Writes Chrome's trace format, a row per role, times in microseconds."""
    spans = sorted(spans, key=lambda span: span.start)
    roles = {role: index for index, role in enumerate(sorted({span.role for span in spans}))}
    events: list[dict] = [
        {"name": "process_name", "ph": "M", "pid": index, "tid": 0, "args": {"name": role}}
        for role, index in roles.items()
    ]
    events += [
        {
            "name": span.name,
            "ph": "X",
            "pid": roles[span.role],
            "tid": 0,
            "ts": round(1e6 * span.start),
            "dur": round(1e6 * (span.end - span.start)),
        }
        for span in spans
    ]
    write_text(path, json.dumps({"traceEvents": events}))


def compute_waits(spans: Sequence[Span]) -> dict[str, dict[str, float]]:
    """Role -> share of the whole time: "busy", and for every other role the share in which only that one worked.

    The whole time is from the first start to the last end. In a moment in which several others work, each of them has
    its part of the wait.
    """
    roles = sorted({span.role for span in spans})
    edges = sorted({time for span in spans for time in (span.start, span.end)})
    waits = {role: {"busy": 0.0} | {other: 0.0 for other in roles if other != role} for role in roles}
    if len(edges) < 2:
        return waits
    total = edges[-1] - edges[0]
    for start, end in pairwise(edges):
        share = (end - start) / total
        working = {span.role for span in spans if span.start < end and span.end > start}
        for role in roles:
            if role in working:
                waits[role]["busy"] += share
            else:
                for other in working:
                    waits[role][other] += share / len(working)
    return waits


def format_waits(waits: dict[str, dict[str, float]]) -> list[str]:
    """A line per role: how long it worked, and for whom it waited, in percent of the whole time."""
    lines = []
    for role, shares in waits.items():
        others = sorted(((share, other) for other, share in shares.items() if other != "busy"), reverse=True)
        waited = ", ".join(f"{share:.0%} for {other}" for share, other in others if share >= 0.005)
        lines.append(f"{role}: worked {shares['busy']:.0%} of the time; waited {waited or 'for nobody'}")
    return lines
