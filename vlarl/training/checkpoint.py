"""Checkpoints of a training run: complete, atomic, pruned to the newest and the chosen one."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.files import atomic_folder
from vlarl.training.learner_files import naming_damage
from vlarl.training.roles import TrainingLearner

STATE = "state.json"
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

    def save(self, learner: TrainingLearner, state: dict[str, Any]) -> Path:
        """Writes the checkpoint of the iteration that `state` names and prunes others; the chosen one is kept."""
        path = self.path(state["iteration"])
        with atomic_folder(path) as scratch:
            learner.save(scratch)
            (scratch / STATE).write_text(json.dumps(state, indent=1))
        keep = set(self.iterations()[-self.keep_last :]) | {state["best"]["iteration"]}
        for iteration in self.iterations():
            if iteration not in keep:
                shutil.rmtree(self.path(iteration))
        return path

    def state(self, iteration: int) -> dict[str, Any]:
        """Returns the state of a checkpoint.

        Raises:
            UserError: a file is missing or damaged.
        """
        path = self.path(iteration)
        with naming_damage(path):
            return json.loads((path / STATE).read_text())
