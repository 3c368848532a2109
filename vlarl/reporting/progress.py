"""What a person sees while work goes on: bars on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm

PLAIN_INTERVAL = 10.0
"""Seconds between lines of one bar in a log file."""

EpisodeProgress = Callable[[int, int, int], None]


class Console:
    """Writes to standard error, so that standard output is free for --json."""

    def __init__(self, stream: TextIO = sys.stderr, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._started = time.monotonic()

    def line(self, text: str) -> None:
        """Prints one line with the time since the start."""
        if self._quiet:
            return
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        tqdm.write(f"[{minutes:02d}:{seconds:02d}] {text}", file=self._stream)
        self._stream.flush()

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """Yields update(done, **figures): moves the bar to `done` of `total` and shows the figures beside it."""
        if self._stream.isatty() and not self._quiet:
            with tqdm(total=total, desc=label, unit=unit, file=self._stream, leave=False, dynamic_ncols=True) as bar:
                yield _TerminalBar(bar)
        else:
            yield _PlainBar(self, label, total, unit)

    @contextmanager
    def episodes(self, label: str, total: int) -> Iterator[EpisodeProgress]:
        """A bar for trajectories: rate, success rate, time left."""
        started = time.monotonic()
        with self.bar(label, total, "episode") as update:

            def progress(done: int, successes: int, env_steps: int) -> None:
                rate = env_steps / max(1e-9, time.monotonic() - started)
                update(done, success=f"{successes / max(1, done):.0%}", env_steps_per_s=f"{rate:.0f}")

            yield progress


@dataclass
class _TerminalBar:
    bar: tqdm

    def __call__(self, done: int, **figures: str) -> None:
        self.bar.set_postfix(figures, refresh=False)
        self.bar.update(done - self.bar.n)


class _PlainBar:
    def __init__(self, console: Console, label: str, total: int, unit: str) -> None:
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._started = self._printed = time.monotonic()

    def __call__(self, done: int, **figures: str) -> None:
        now = time.monotonic()
        if done < self._total and now - self._printed < PLAIN_INTERVAL:
            return
        self._printed = now
        left = (now - self._started) / max(1, done) * (self._total - done)
        extra = "".join(f", {key} {value}" for key, value in figures.items())
        self._console.line(f"{self._label}: {done}/{self._total} {self._unit}s{extra}, {left:.0f} s left")


class ConsoleTrainingProgress:
    """Shows a training run: a bar per rollout, a line per iteration, the monitor's warnings."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._update: EpisodeProgress | None = None
        self._context: Any = None

    def iteration(self, index: int, total: int, num_trajectories: int) -> EpisodeProgress:
        """See TrainingProgress.iteration."""
        self._context = self._console.episodes(f"iteration {index + 1}/{total}", num_trajectories)
        return self._context.__enter__()

    def row(self, row: Mapping[str, Any]) -> None:
        """See TrainingProgress.row."""
        self._context.__exit__(None, None, None)
        validation = row.get("evaluation/validation_success")
        self._console.line(
            f"iteration {row['iteration'] + 1}: success {row['charts/success_rate']:.0%}"
            + (f", validation {validation:.0%}" if validation is not None else "")
            + f", {row['charts/episode_steps']:.0f} steps/episode, {row['env_steps']} env steps"
            + self._learned(row)
            + f", entropy {row['rollout/entropy']:.3f}"
            + f", {row['time/env_steps_per_second']:.0f} env steps/s, {row['time/total']:.1f} s"
        )

    @staticmethod
    def _learned(row: Mapping[str, Any]) -> str:
        if not row["losses/policy_updates"] and not row["critic_warmup"]:
            return ", nothing to learn from"
        kl = f"kl {row['losses/approx_kl']:.4f}" if "losses/approx_kl" in row else "critic warm-up"
        return f", {kl}, explained variance {row['losses/explained_variance']:.2f}"

    def warning(self, warning: Any) -> None:  # noqa: ANN401 - monitor.MonitorWarning
        """See TrainingProgress.warning."""
        self._console.line(f"WARNING {warning.code}: {warning.message} {warning.advice}")
