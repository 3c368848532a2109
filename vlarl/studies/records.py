"""One small JSON file per finished run: all that the tables need, so that work goes on on another machine."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.configs.training import TrainConfig
from vlarl.errors import UserError
from vlarl.evaluation.protocol import Evaluation
from vlarl.studies.base import Job
from vlarl.system import cpu_cores, machine_card
from vlarl.training.run_folder import RunFolder, differing_keys, read_json, write_json

MAX_BYTES = 100_000
"""Of one record; they are committed."""
NO_INFLUENCE = ("sinks", "keep_last", "checkpoint_interval", "learner_threads")
"""Settings that do not change what a run learns (threads: up to rounding)."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished or crashed run."""

    fingerprint: str
    config: Mapping[str, Any]
    packages: Mapping[str, str | None]
    """Versions of the packages that affect results."""
    outcomes: Mapping[str, np.ndarray]
    """Evaluation's name -> success [episodes] bool, in the order of `starts`."""
    starts: tuple[tuple[int, int], ...]
    """Task and index of the evaluation starts."""
    curve: tuple[tuple[int, float], ...]
    """Env steps so far and success of the iteration's rollouts."""
    warnings: tuple[str, ...]
    """What the monitor warned of."""
    card: Mapping[str, Any]
    """Env steps, wall seconds, core-hours, peak memory in bytes, machine."""
    error: str | None = None
    """Why the run crashed."""
    policies: str = ""
    """Names the weights of both policies: records of one training have the same."""


def fingerprint(config: TrainConfig, evaluated_in: EnvConfig | None = None) -> str:
    """Names a run by its resolved configuration and the environment of its evaluation, if that is another one.

    16 hexadecimal digits.
    """
    settings = {key: value for key, value in config.as_dict().items() if key not in NO_INFLUENCE}
    settings["env"] = _env_settings(config.env)
    if evaluated_in is not None and evaluated_in != config.env:
        settings["evaluated_in"] = _env_settings(evaluated_in)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _env_settings(env: EnvConfig) -> dict[str, Any]:
    # Workers do not change an episode's outcome. A setting that is off names nothing: there was a time before it.
    without = ("num_workers", "render_gpus", *(("shift",) if env.shift is None else ()))
    return {key: value for key, value in asdict(env).items() if key not in without}


def make_record(
    job: Job, folder: RunFolder, error: str | None = None, evaluation_seconds: float | None = None
) -> Record:
    """Reads the record of a run from its folder.

    Args:
        job: what was run.
        folder: of its training.
        error: why it crashed.
        evaluation_seconds: of a job that is evaluated elsewhere: its training counts in another record.
    """
    config = job.config
    evaluations = {}
    if error is None:
        evaluations = {f"{s}_greedy": Evaluation.load(evaluation_file(job, folder, s)) for s in ("sft", "rl")}
    episodes = next(iter(evaluations.values())).episodes if evaluations else ()
    history = [] if job.is_elsewhere else folder.history()
    ledger = read_json(folder.phases)
    seconds = evaluation_seconds if evaluation_seconds is not None else sum(ledger["seconds"].values())
    warnings = read_json(folder.train_summary)["warnings"] if folder.train_summary.is_file() else []
    machine = machine_card()
    return Record(
        fingerprint=fingerprint(config, job.env),
        config=config.as_dict() | ({"evaluated_in": asdict(job.env)} if job.is_elsewhere else {}),
        packages=machine.pop("packages"),
        outcomes={name: evaluation.successes for name, evaluation in evaluations.items()},
        starts=tuple((e.start.task_id, e.start.index) for e in episodes),
        curve=tuple((int(row["env_steps"]), float(row["charts/success_rate"])) for row in history),
        warnings=tuple(sorted({warning["code"] for warning in warnings})),
        card={
            "env_steps": _env_steps(history, evaluations.values() if job.is_elsewhere else ()),
            "wall_seconds": seconds,
            "core_hours": seconds * cpu_cores() / 3600,
            "peak_rss_bytes": ledger["peak_rss_bytes"],
            "machine": machine,
        },
        error=error,
        policies=_policies(folder) if error is None else "",
    )


def _env_steps(history: list[dict[str, Any]], evaluations: Iterable[Evaluation]) -> int:
    """Of the training, or of what was evaluated elsewhere."""
    return int(history[-1]["env_steps"]) if history else sum(evaluation.env_steps for evaluation in evaluations)


def _policies(folder: RunFolder) -> str:
    """Names the weights of both policies."""
    digest = hashlib.sha256()
    for policy in (folder.sft_policy, folder.rl_policy):
        for path in sorted(policy.glob("*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def evaluation_file(job: Job, folder: RunFolder, stage: str) -> Path:
    """Where the greedy evaluation of a stage's policy is, in the folder of the job's training."""
    suffix = f"_in_{fingerprint(job.config, job.env)}" if job.is_elsewhere else ""
    return folder.evaluation(f"{stage}_greedy{suffix}")


def save_record(record: Record, folder: Path) -> Path:
    """Writes the record, atomically.

    Raises:
        UserError: it is larger than what may be committed.
    """
    raw = vars(record) | {
        "outcomes": {name: "".join("01"[int(s)] for s in values) for name, values in record.outcomes.items()}
    }
    size = len(json.dumps(raw))
    if size > MAX_BYTES:
        raise UserError(f"the record of run {record.fingerprint} takes {size} bytes, more than {MAX_BYTES}")
    path = folder / f"{record.fingerprint}.json"
    write_json(path, raw)
    return path


def load_record(folder: Path, name: str) -> Record | None:
    """The record of the run with that fingerprint, or None.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    raw = read_json(path)
    try:
        return Record(
            **raw
            | {
                "outcomes": {k: np.array([c == "1" for c in v], dtype=bool) for k, v in raw["outcomes"].items()},
                "starts": tuple((task, index) for task, index in raw["starts"]),
                "curve": tuple((steps, rate) for steps, rate in raw["curve"]),
                "warnings": tuple(raw["warnings"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no record of a run ({error}): delete it, the study runs it again") from error


def check_comparable(records: Iterable[Record]) -> None:
    """Refuses to mix runs that were made with other packages, evaluated on other starts, or of one training made twice.

    Raises:
        UserError: names the first difference.
    """
    finished = [record for record in records if record.error is None]
    policies: dict[str, Record] = {}
    for record in finished:
        training = json.dumps({k: v for k, v in record.config.items() if k != "evaluated_in"}, sort_keys=True)
        other = policies.setdefault(training, record)
        if other.policies != record.policies:
            raise UserError(
                f"records {other.fingerprint} and {record.fingerprint} are of one configuration that was trained twice,"
                " perhaps on two machines: their policies differ; delete one of them, the study evaluates again"
            )
    for record in finished[1:]:
        first = finished[0]
        packages = differing_keys(dict(first.packages), dict(record.packages))
        if packages:
            raise UserError(
                f"runs {first.fingerprint} and {record.fingerprint} were made with other versions"
                f" ({', '.join(packages)}): their figures cannot be mixed; delete one of them, the study runs it again"
            )
        if first.starts != record.starts:
            task, index = min(set(first.starts) ^ set(record.starts))
            raise UserError(
                f"runs {first.fingerprint} and {record.fingerprint} were evaluated on different starts (start {index}"
                f" of task {task} is in one of them only): their figures cannot be mixed"
            )
