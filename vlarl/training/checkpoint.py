"""Checkpoints of a training run: complete, atomic, pruned to the newest and the best."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from vlarl.errors import UserError
from vlarl.files import atomic_folder
from vlarl.policies.checkpoint import load_weights, save_policy, save_weights
from vlarl.training.learner import Learner

POLICY, VALUE, OPTIMIZERS, STATE = "policy", "value.safetensors", "optimizers.pt", "state.json"
_NAME = re.compile(r"iteration_(\d{6})")


@dataclass(frozen=True)
class CheckpointStore:
    """The folder `checkpoints/` of a run.

    All random numbers are counter-based functions of the seed and the counters in `state`, so a checkpoint needs no
    generator states to be complete.
    """

    folder: Path
    keep_last: int

    def path(self, iteration: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / f"iteration_{iteration:06d}"

    def iterations(self) -> list[int]:
        """Finished iterations that have a checkpoint, ascending."""
        names = (_NAME.fullmatch(p.name) for p in self.folder.glob("iteration_*"))
        return sorted(int(match[1]) for match in names if match)

    def save(self, learner: Learner, state: dict[str, Any]) -> Path:
        """Writes the checkpoint of state["iteration"] and prunes others; state["best"]["iteration"] is kept."""
        path = self.path(state["iteration"])
        with atomic_folder(path) as scratch:
            save_policy(learner.model.policy, scratch / POLICY)
            save_weights(learner.model.value, scratch / VALUE)
            torch.save(learner.state_dict(), scratch / OPTIMIZERS)
            (scratch / STATE).write_text(json.dumps(state, indent=1))
        keep = set(self.iterations()[-self.keep_last :]) | {state["best"]["iteration"]}
        for iteration in self.iterations():
            if iteration not in keep:
                shutil.rmtree(self.path(iteration))
        return path

    def load(self, learner: Learner, iteration: int) -> dict[str, Any]:
        """Restores weights and optimizers; returns the state.

        Raises:
            UserError: a file is missing or damaged.
        """
        path = self.path(iteration)
        load_weights(learner.model.policy, path / POLICY / "model.safetensors")
        load_weights(learner.model.value, path / VALUE)
        try:
            learner.load_state_dict(torch.load(path / OPTIMIZERS, weights_only=True))
            return json.loads((path / STATE).read_text())
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            # torch's own words for it are a page on how to read untrusted files.
            reason = f"{OPTIMIZERS} is no file of torch" if isinstance(error, UnpicklingError) else error
            raise UserError(
                f"checkpoint {path} is damaged ({reason}): delete this folder to go on from the one before"
            ) from error
