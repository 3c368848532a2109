"""Where metric rows go: a JSONL file, TensorBoard event files, Weights & Biases, trackio."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from vlarl.errors import UserError, check_names
from vlarl.files import write_text

MetricRow = Mapping[str, float | int | str]


class MetricsSink(Protocol):
    """Receives one row per iteration (or gradient step)."""

    def log(self, row: MetricRow, step: int) -> None:
        """Writes `row` as the values of `step`."""
        ...

    def truncate_after(self, step: int) -> None:
        """Forgets every row later than `step`: what a resumed run is about to compute again."""
        ...

    def close(self) -> None:
        """Writes what is still buffered."""
        ...


class JsonlSink:
    """Appends one JSON object per row, first field `step_key`; on disk when `log` returns.

    Non-finite numbers become null, since JSON has no word for them; finite floats keep every bit.
    """

    def __init__(self, path: Path, *, step_key: str = "iteration") -> None:
        self.path = path
        self.step_key = step_key
        path.parent.mkdir(parents=True, exist_ok=True)

    def log(self, row: MetricRow, step: int) -> None:
        """Appends the row in one write and flushes it to disk."""
        line = json.dumps({self.step_key: step, **{name: _finite_or_none(value) for name, value in row.items()}})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_after(self, step: int) -> None:
        """Keeps the rows up to and including `step`, and drops a last line cut short by a kill. Atomic."""
        if not self.path.exists():
            return
        kept = [row for row in read_jsonl(self.path) if row[self.step_key] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Nothing is buffered."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a JSONL file.

    A last line without its newline was cut short by a kill and is left out.

    Raises:
        UserError: a line is not a JSON object.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not valid JSON ({error}): delete that line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not a JSON object: delete that line")
        rows.append(row)
    return rows


class TensorBoardSink:
    """Writes scalar event files with TensorBoard's own writer; strings are left out."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event_pb2, self._summary_pb2 = event_pb2, summary_pb2
        self._writer = EventFileWriter(str(directory))

    def log(self, row: MetricRow, step: int) -> None:
        """Adds one scalar per number of the row."""
        values = [
            self._summary_pb2.Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if not isinstance(value, str)
        ]
        summary = self._summary_pb2.Summary(value=values)
        self._writer.add_event(self._event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def truncate_after(self, step: int) -> None:
        """Marks a restart: TensorBoard then hides the earlier run's events beyond `step`."""
        restart = self._event_pb2.SessionLog(status=self._event_pb2.SessionLog.START)
        self._writer.add_event(self._event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=restart))
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WandbSink:
    """Logs to Weights & Biases, project `vlarl`, run named after the run folder; needs `vlarl[wandb]`."""

    def __init__(self, run_dir: Path) -> None:
        wandb = _import_extra("wandb")
        self._run = wandb.init(project="vlarl", name=run_dir.name, dir=str(run_dir), resume="allow")

    def log(self, row: MetricRow, step: int) -> None:
        """Sends the row."""
        self._run.log(dict(row), step=step)

    def truncate_after(self, step: int) -> None:
        """Nothing to do: a resumed process logs to a new run of the same name."""

    def close(self) -> None:
        """Ends the run and waits for its upload."""
        self._run.finish()


class TrackioSink:
    """Logs to trackio, project `vlarl`, run named after the run folder; needs `vlarl[trackio]`."""

    def __init__(self, run_dir: Path) -> None:
        self._trackio = _import_extra("trackio")
        self._trackio.init(project="vlarl", name=run_dir.name, resume="allow")

    def log(self, row: MetricRow, step: int) -> None:
        """Sends the row."""
        self._trackio.log(dict(row), step=step)

    def truncate_after(self, step: int) -> None:
        """Nothing to do: trackio keeps the earlier rows, and the new ones are drawn over them."""

    def close(self) -> None:
        """Ends the run."""
        self._trackio.finish()


SINKS = ("jsonl", "tensorboard", "wandb", "trackio")
EXTRAS = ("wandb", "trackio")
"""Sinks that need a package of their own name."""


def make_sinks(names: Sequence[str], run_dir: Path) -> tuple[MetricsSink, ...]:
    """Builds the named sinks of a run: run_dir/metrics.jsonl, run_dir/tensorboard, or a remote run.

    Raises:
        UserError: see `check_sinks`.
    """
    check_sinks(names)
    return tuple(_make_sink(name, run_dir) for name in names)


def check_sinks(names: Sequence[str]) -> None:
    """Checks the names of sinks, without connecting to anything.

    Raises:
        UserError: unknown name (the nearest known one is suggested), or its package is not installed.
    """
    check_names("metrics sink", names, SINKS)
    for name in names:
        if name in EXTRAS:
            _import_extra(name)


def _make_sink(name: str, run_dir: Path) -> MetricsSink:
    if name == "jsonl":
        return JsonlSink(run_dir / "metrics.jsonl")
    if name == "tensorboard":
        return TensorBoardSink(run_dir / "tensorboard")
    return WandbSink(run_dir) if name == "wandb" else TrackioSink(run_dir)


def _import_extra(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(
            f"metrics sink {package!r} needs the package {package}: pip install 'vlarl[{package}]', or leave it out of"
            " --sinks"
        ) from None


def _finite_or_none(value: float | int | str) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
