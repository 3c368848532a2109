"""`vlarl COMMAND`: finds the command, and turns errors into messages and exit codes."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from vlarl import __version__
from vlarl.allocator import keep_freed_memory
from vlarl.errors import EXIT_INTERRUPTED, UserError, unknown_name

# Waiting threads spin for milliseconds by default, and take the cores from the simulator's processes; asleep at once,
# they make SFT's small batches as slow as one thread. A short spin does neither. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("vlarl.cli.quickstart", "the main job: demonstrations, SFT, PPO, evaluation, report"),
    "demos": ("vlarl.cli.phases", "collect demonstrations with scripted experts"),
    "sft": ("vlarl.cli.phases", "supervised fine-tuning on demonstrations"),
    "train": ("vlarl.cli.phases", "reinforcement learning (PPO) of a recipe"),
    "evaluate": ("vlarl.cli.evaluate", "success of a policy on the evaluation starts, with intervals"),
    "study": ("vlarl.cli.study", "test a claim of the method by a grid of runs"),
    "compare": ("vlarl.cli.compare", "paired comparison of runs on the same starts"),
    "reward": ("vlarl.cli.reward", "label trajectories, train and measure a process reward model"),
    "report": ("vlarl.cli.report", "write summary.json and report.html of a run folder"),
    "export": ("vlarl.cli.export", "write an OpenVLA policy so that the published code can load it"),
    "recipes": ("vlarl.cli.recipes", "list recipes, or print one resolved"),
    "tasks": ("vlarl.cli.tasks", "LIBERO's suites and tasks, with a contact sheet"),
    "cache": ("vlarl.cli.cache", "show or clear the built simulator models"),
    "plan": ("vlarl.cli.plan", "throughput and best split of 1 to G GPUs, simulated from measured pieces"),
    "doctor": ("vlarl.cli.doctor", "check this machine: versions, rendering, memory, disk"),
}
RESUMABLE = ("quickstart", "demos", "sft", "train", "study")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, or the error's code (2 bad input, 3 missing library, 4 non-finite, 130 Ctrl-C)."""
    keep_freed_memory()
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A cluster's scheduler ends a job with SIGTERM: leave as after Ctrl-C, with everything saved.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(_dispatch(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(arguments)}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _how_to_go_on(arguments: list[str]) -> str:
    if arguments[0] not in RESUMABLE:
        return ""
    return f": finished work is saved; the same command goes on where it stopped:\n  vlarl {shlex.join(arguments)}"


def _dispatch(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    name = arguments[0]
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    return import_module(COMMANDS[name][0]).main(name, arguments[1:])


def _overview() -> str:
    lines = [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: vlarl COMMAND [options]", "", *lines, "", "vlarl COMMAND --help lists its options.", "vlarl --version"]
    )
