"""What the report reads from a run folder."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.errors import UserError
from vlarl.reporting.sinks import read_jsonl


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run folder holds for the report; empty where a file is missing."""

    name: str
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    """metrics.jsonl: one per iteration."""
    sft_rows: Sequence[Mapping[str, Any]]
    videos: Sequence[Mapping[str, Any]]
    """videos/index.json, each entry with `data`, the file in base64."""
    failures: Mapping[str, Any]
    """failures.json, each of its videos with `data`."""

    @property
    def task_ids(self) -> list[str]:
        """Task ids as the summary and the metrics write them."""
        tasks = self.summary.get("task_ids") or self.config.get("env", {}).get("task_ids", [])
        return [str(task) for task in sorted(tasks)]

    def instruction(self, task_id: str) -> str:
        """The task's instruction, or its number."""
        return self.summary.get("instructions", {}).get(task_id, f"task {task_id}")


def load_run_files(folder: Path) -> RunFiles:
    """Reads what the report shows.

    Raises:
        UserError: the folder holds no run, or a file in it is damaged.
    """
    metrics, sft_metrics, index = folder / "metrics.jsonl", folder / "sft_metrics.jsonl", folder / "videos/index.json"
    summary, config = _read_json(folder / "summary.json"), _read_json(folder / "config.json")
    failures = _read_json(folder / "failures.json")
    if not summary and not config:
        raise UserError(f"{folder} holds no run: make one with `vlarl quickstart --output {folder}`")
    return RunFiles(
        name=folder.resolve().name,
        summary=summary,
        config=config,
        rows=read_jsonl(metrics) if metrics.is_file() else [],
        sft_rows=read_jsonl(sft_metrics) if sft_metrics.is_file() else [],
        videos=_with_data(folder, _read_json(index, [])),
        failures=failures | {"videos": _with_data(folder, failures["videos"])} if failures else {},
    )


def _with_data(folder: Path, videos: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "data": _base64(folder / "videos" / entry["file"])} for entry in videos]


def _read_json(path: Path, missing: Any = None) -> Any:  # noqa: ANN401 - any JSON value
    if not path.is_file():
        return {} if missing is None else missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the same command again") from None


def _base64(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is missing: delete {path.parent} and run the same command again")
    return base64.b64encode(path.read_bytes()).decode()
