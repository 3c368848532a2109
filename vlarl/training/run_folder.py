"""The output folder of a run: where everything lies, and whose it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.configs.env import EnvConfig
from vlarl.configs.training import TrainConfig
from vlarl.errors import UserError
from vlarl.files import write_text
from vlarl.reporting.sinks import read_jsonl


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON-able value
    """Writes JSON, atomically."""
    write_text(path, json.dumps(value, indent=2))


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON-able value
    """Reads JSON.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, the same command writes it again") from error


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, JSON."""
        return self.root / "config.json"

    @property
    def demonstrations(self) -> Path:
        """HDF5 files in LIBERO's layout, one per task."""
        return self.root / "demos"

    @property
    def demonstration_rates(self) -> Path:
        """Attempts and successes of the experts, per task."""
        return self.demonstrations / "rates.json"

    @property
    def sft_policy(self) -> Path:
        """Policy folder after SFT."""
        return self.root / "sft" / "policy"

    @property
    def sft_metrics(self) -> Path:
        """SFT's log rows."""
        return self.root / "sft_metrics.jsonl"

    @property
    def metrics(self) -> Path:
        """One row per iteration."""
        return self.root / "metrics.jsonl"

    @property
    def timeline(self) -> Path:
        """Trace of the roles' work on a cluster, for Perfetto or chrome://tracing."""
        return self.root / "timeline.json"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the training."""
        return self.root / "checkpoints"

    @property
    def rl_policy(self) -> Path:
        """Policy folder after RL: the checkpoint that validation chooses, else the last."""
        return self.root / "rl" / "policy"

    @property
    def train_summary(self) -> Path:
        """Final counters of the training, written when it ends."""
        return self.root / "rl" / "train.json"

    @property
    def evaluations(self) -> Path:
        """Evaluation outcomes, one JSON per policy and mode."""
        return self.root / "evaluations"

    def evaluation(self, name: str) -> Path:
        """Outcomes of one evaluation, for example rl_greedy."""
        return self.evaluations / f"{name}.json"

    def actions(self, name: str) -> Path:
        """Executed actions of one evaluation, by `{task_id}_{start index}`; videos replay them."""
        return self.evaluations / f"{name}_actions.npz"

    @property
    def videos(self) -> Path:
        """Side-by-side videos."""
        return self.root / "videos"

    @property
    def failures(self) -> Path:
        """Failed episodes by segment of the task, before and after RL."""
        return self.root / "failures.json"

    @property
    def suspicious_videos(self) -> Path:
        """Episodes that earned process reward without success, saved when the monitor warns."""
        return self.root / "suspicious_videos"

    @property
    def phases(self) -> Path:
        """Seconds spent per phase so far."""
        return self.root / "phases.json"

    @property
    def summary(self) -> Path:
        """The run's figures."""
        return self.root / "summary.json"

    def history(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl; none before the first iteration has ended."""
        return read_jsonl(self.metrics) if self.metrics.is_file() else []

    def claim(self, config: TrainConfig) -> None:
        """Makes the folder this run's; see `claim_folder`."""
        claim_folder(self.config, config.as_dict(), "run")


def claim_folder(path: Path, settings: Mapping[str, Any], what: str) -> None:
    """Makes the folder of `path` the one of these settings, which are written there, or checks that it already is.

    Args:
        path: of the settings, JSON.
        settings: JSON-able.
        what: the folder holds, for messages.

    Raises:
        UserError: it holds another `what`, the differing settings are named; or something else.
    """
    root, mine = path.parent, json.loads(json.dumps(settings))
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file, not a folder: choose another --output")
    if path.is_file():
        try:
            theirs = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path} is damaged ({error}), so it is not known which {what} this is: choose another --output"
            ) from error
        differing = differing_keys(theirs, mine)
        if differing:
            raise UserError(
                f"{root} holds another {what}; its settings differ in {', '.join(differing[:6])}:"
                " choose another --output or the same settings"
            )
        return
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} is not empty and holds no {what}: choose another --output")
    try:
        write_json(path, mine)
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}): choose another --output") from error


def load_env_config(policy: Path) -> EnvConfig | None:
    """The environment of the run that a policy folder (RUN/sft/policy) lies in; None of one that lies in no run."""
    path = RunFolder(policy.resolve().parent.parent).config
    if not path.is_file():
        return None
    raw = read_json(path)["env"]
    return EnvConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})


def differing_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Names settings that differ as `section.key (old -> new)`."""
    result = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            result += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            result.append(f"{prefix}{key} ({a} -> {b})")
    return result
