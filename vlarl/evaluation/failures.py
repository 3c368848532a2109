"""Which segment of its task a failed episode did not get through; pure."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from vlarl.types import EpisodeTrace

NEVER_REACHED, GRASP_MISSED, DROPPED = "never reached", "grasp missed", "dropped"
WRONG_PLACE, TIME_OUT = "wrong place", "time-out"
KINDS = (NEVER_REACHED, GRASP_MISSED, DROPPED, WRONG_PLACE, TIME_OUT)
"""In the order of the task."""
REACH = 0.06
"""Metres between the grip site and the nearest solid part within which it is reached."""
LIFT = 0.02
"""Metres above its start from which an object counts as lifted."""
LET_GO_STEPS = 12
"""Env steps before an object is lost within which a command to open says that it was let go; opening takes 8."""


def classify(trace: EpisodeTrace) -> str:
    """One of KINDS.

    never reached: the hand was never at what is to be moved. grasp missed: it was, but an object was never lifted. Of
    objects that were: time-out, it is in the hand at the end; wrong place: the gripper let it go; dropped: it was lost
    though the gripper was to stay closed. Drawers and knobs that were reached: time-out.
    """
    near = trace.distance < REACH
    if not near.any():
        return NEVER_REACHED
    if not trace.is_carried:
        return TIME_OUT
    held = near & (trace.height > LIFT)
    if not held.any():
        return GRASP_MISSED
    last = int(np.flatnonzero(held)[-1])
    if last == len(held) - 1:
        return TIME_OUT
    before = trace.closing[max(0, last + 1 - LET_GO_STEPS) : last + 2]
    return DROPPED if before.all() else WRONG_PLACE


def count_failures(kinds: Iterable[str]) -> dict[str, int]:
    """Failures by kind, every kind named."""
    counted = Counter(kinds)
    return {kind: counted[kind] for kind in KINDS}
