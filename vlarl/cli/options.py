"""Parsing that the commands share: recipes with overrides, JSON output."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from vlarl.configs.roles import RolesConfig
from vlarl.configs.training import TrainConfig
from vlarl.recipes import make_recipe

T = TypeVar("T")

MARKERS = (tyro.conf.AvoidSubcommands,)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a command that works on a run folder. Every setting of the recipe can be overridden."""

    output: Path
    """Run folder. A folder that holds the same run is continued."""
    minutes: float | None = None
    """Cap on the run's wall time, minutes: PPO ends early, or does not begin, so that evaluation and report fit;
    demonstrations and SFT are not cut short."""
    task_suite: str | None = None
    """Short for --env.task-suite: all tasks of the suite, unless --task-ids names some, under its own step limit."""
    task_ids: tuple[int, ...] | None = None
    """Short for --env.task-ids."""
    episodes: int | None = None
    """Short for --demonstrations.episodes-per-task."""
    json: bool = False
    """Print the result as JSON on standard output."""
    cluster: str | None = None
    """`train` on a Ray cluster: auto joins the running one or starts one on this machine, local starts one here,
    HOST:PORT joins that one. The results are those of one process."""
    roles: RolesConfig = field(default_factory=RolesConfig)
    """What runs on the cluster."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    """The recipe's settings."""


def parse(kind: type[T], argv: Sequence[str], command: str, **keywords: Any) -> T:  # noqa: ANN401
    """Parses `argv`; exits with 2 and a suggestion on an unknown flag."""
    return tyro.cli(kind, args=list(argv), prog=f"vlarl {command}", config=MARKERS, **keywords)


def parse_run_options(argv: Sequence[str], command: str, description: str) -> RunOptions:
    """Parses a run command; the recipe named on the line gives the defaults of all other flags."""
    recipe = named_option(argv, "--recipe") or "quickstart"
    config = make_recipe(recipe)
    default = RunOptions(output=Path("runs") / recipe, config=config)
    options = parse(RunOptions, argv, command, default=default, description=description)
    return replace(options, config=_with_short_options(options, named_option(argv, "--env.max-episode-steps")))


def _with_short_options(options: RunOptions, named_limit: str | None) -> TrainConfig:
    """The configuration with what the short options say.

    Raises:
        UserError: a suite that does not exist.
    """
    config, env = options.config, options.config.env
    if options.task_suite is not None and options.task_suite != env.task_suite:
        # Only here: it reads LIBERO's files.
        from vlarl.envs.libero.tasks import num_tasks

        task_ids = tuple(range(num_tasks(options.task_suite)))
        # The recipe's limit is that of the recipe's tasks.
        limit = env.max_episode_steps if named_limit is not None else None
        env = replace(env, task_suite=options.task_suite, task_ids=task_ids, max_episode_steps=limit)
    if options.task_ids is not None:
        env = replace(env, task_ids=options.task_ids)
    demonstrations = config.demonstrations
    if options.episodes is not None:
        demonstrations = replace(demonstrations, episodes_per_task=options.episodes)
    return replace(config, env=env, demonstrations=demonstrations)


def named_option(argv: Sequence[str], flag: str) -> str | None:
    """Returns the value of `flag` ("--flag value" or "--flag=value") or None."""
    for index, argument in enumerate(argv):
        if argument == flag and index + 1 < len(argv):
            return argv[index + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON-able value
    """Prints `value` on standard output."""
    json.dump(value, sys.stdout, indent=2)
    print()
