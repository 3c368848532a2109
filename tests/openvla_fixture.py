"""Reference numbers: the published code's (VLARL_OPENVLA_FIXTURE), and the project's own of the same format.

Every size is read from the files. `within` keeps the largest difference of each group: `pytest --differences`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    # Loaded by the tests that use them: all others start quicker.
    from torch import Tensor

    from vlarl.policies.openvla.processor import OpenVLAProcessor

REPOSITORY = Path(__file__).resolve().parents[1]
PUBLISHED = Path(os.environ.get("VLARL_OPENVLA_FIXTURE") or REPOSITORY.parent / "shared" / "fixtures" / "openvla")
OWN = Path(__file__).resolve().parent / "policies" / "openvla" / "data"
DIFFERENCES: dict[tuple[str, str], float] = {}
"""(fixture, group) -> largest absolute difference of this session."""


@dataclass(frozen=True)
class Case:
    """One picture with one task."""

    index: int
    picture: int
    task: int


@dataclass(frozen=True)
class Reference:
    """A fixture folder."""

    name: str
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of one file; skips the test where the folder has none."""
        if not (self.folder / name).is_file():
            pytest.skip(f"{self.folder} has no {name}")
        return read_arrays(self.folder / name)

    def json(self, name: str) -> dict[str, Any]:
        if not (self.folder / name).is_file():
            pytest.skip(f"{self.folder} has no {name}")
        return json.loads((self.folder / name).read_text())

    @property
    def prompts(self) -> dict[str, Any]:
        return self.json("prompts.json")

    @property
    def model_cases(self) -> dict[str, np.ndarray]:
        return self.arrays("model_cases.npz")

    def cases(self) -> Iterator[Case]:
        for index, (picture, task) in enumerate(self.prompts["cases"]):
            yield Case(index, picture, task)

    def image(self, index: int) -> np.ndarray:
        return self.arrays("images.npz")[f"image_{index}"]

    def num_images(self) -> int:
        return len(self.arrays("images.npz"))

    def pixels(self, processor: "OpenVLAProcessor", *indices: int) -> "Tensor":
        """[B, 6, H, H] of pictures."""
        import torch

        return processor.normalize(torch.from_numpy(processor.resize([self.image(index) for index in indices])))

    def within(self, group: str, ours: object, expected: object, atol: float) -> None:
        """Asserts the largest absolute difference, and keeps it."""
        difference = distance(ours, expected)
        DIFFERENCES[self.name, group] = max(difference, DIFFERENCES.get((self.name, group), 0.0))
        assert difference <= atol, f"{group}: {difference:.3g} from the reference, at most {atol:g}"


@cache
def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as raw:
        return {key: raw[key] for key in raw.files}


def distance(ours: object, reference: object) -> float:
    """Largest absolute difference of two arrays of one shape."""
    ours, reference = as_array(ours), as_array(reference)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max())


def as_array(value: object) -> np.ndarray:
    return np.asarray(value.detach() if hasattr(value, "detach") else value, dtype=np.float64)


def require(name: str) -> Reference:
    """The fixture "published" or "own"; skips where it is absent."""
    folder = {"published": PUBLISHED, "own": OWN}[name]
    if not (folder / "checkpoint").is_dir():
        pytest.skip(f"no OpenVLA reference numbers at {folder}: set VLARL_OPENVLA_FIXTURE to their folder")
    return Reference(name, folder)
