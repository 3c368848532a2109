"""Where the reference's numbers are, and how they are read."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(
    os.environ.get("VLARL_OPENVLA_FIXTURE") or Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "openvla"
)
needs_fixture = pytest.mark.skipif(
    not (FOLDER / "model_cases.npz").is_file(),
    reason=f"no OpenVLA reference numbers at {FOLDER}: set VLARL_OPENVLA_FIXTURE to their folder",
)


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """Arrays of one file."""
    with np.load(FOLDER / name, allow_pickle=False) as raw:
        return {key: raw[key] for key in raw.files}


@cache
def prompts() -> dict[str, Any]:
    """Tasks, cases and token ids."""
    return json.loads((FOLDER / "prompts.json").read_text())


def distance(ours: object, reference: object) -> float:
    """Largest absolute difference."""
    ours, reference = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max())
