"""Failed episodes by segment, on traces made by hand."""

import numpy as np
import pytest

from vlarl.errors import UserError
from vlarl.evaluation.failures import (
    DROPPED,
    GRASP_MISSED,
    KINDS,
    NEVER_REACHED,
    TIME_OUT,
    WRONG_PLACE,
    classify,
    count_failures,
)
from vlarl.training.failures import require_traces
from vlarl.types import EpisodeTrace

AWAY, AT = 0.2, 0.01


def trace(distance: list[float], height: list[float], closing: list[bool], is_carried: bool = True) -> EpisodeTrace:
    return EpisodeTrace(
        distance=np.array(distance), height=np.array(height), closing=np.array(closing), is_carried=is_carried
    )


@pytest.mark.parametrize(
    ("kind", "episode"),
    [
        (NEVER_REACHED, trace([AWAY] * 30, [0.0] * 30, [False] * 30)),
        (GRASP_MISSED, trace([AWAY] * 10 + [AT] * 20, [0.0] * 10 + [0.01] * 20, [True] * 30)),
        # Thrown up by something else: it was lifted, but never in the hand.
        (GRASP_MISSED, trace([AT] * 10 + [AWAY] * 20, [0.0] * 10 + [0.1] * 20, [True] * 30)),
        (DROPPED, trace([AT] * 20 + [AWAY] * 10, [0.1] * 20 + [0.0] * 10, [True] * 30)),
        # Opened later, elsewhere: that is not why it was lost.
        (DROPPED, trace([AT] * 15 + [AWAY] * 15, [0.1] * 15 + [0.0] * 15, [True] * 20 + [False] * 10)),
        # The fingers open for eight steps before it slips out.
        (WRONG_PLACE, trace([AT] * 20 + [AWAY] * 10, [0.1] * 20 + [0.0] * 10, [True] * 14 + [False] * 16)),
        (TIME_OUT, trace([AWAY] * 5 + [AT] * 25, [0.0] * 10 + [0.1] * 20, [True] * 30)),
        # Dropped once, but in the hand again at the end.
        (TIME_OUT, trace([AT] * 30, [0.1] * 10 + [0.0] * 5 + [0.1] * 15, [True] * 30)),
        (NEVER_REACHED, trace([AWAY] * 30, [0.0] * 30, [True] * 30, is_carried=False)),
        (TIME_OUT, trace([AWAY] * 5 + [AT] * 25, [0.0] * 30, [True] * 30, is_carried=False)),
    ],
)
def test_segments(kind, episode):
    assert classify(episode) == kind


def test_counts_name_every_kind():
    assert count_failures([DROPPED, DROPPED, TIME_OUT]) == {
        NEVER_REACHED: 0, GRASP_MISSED: 0, DROPPED: 2, WRONG_PLACE: 0, TIME_OUT: 1
    }  # fmt: skip
    assert list(count_failures([])) == list(KINDS)


def test_environments_that_cannot_trace_are_named():
    with pytest.raises(UserError, match="in LIBERO only, not in the environment 'toy'"):
        require_traces("toy")
