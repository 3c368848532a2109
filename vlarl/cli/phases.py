"""`vlarl demos`, `vlarl sft`, `vlarl train`: one phase of a recipe; what it needs and is missing is made first."""

from collections.abc import Callable

from vlarl.cli.options import RunOptions, parse_run_options, print_json
from vlarl.cluster.session import check_installed, open_cluster
from vlarl.errors import UserError
from vlarl.reporting.progress import Console
from vlarl.training.run import OpenRoles, Run
from vlarl.training.run_folder import RunFolder, read_json

PHASES: dict[str, tuple[Callable[[Run], None], str]] = {
    "demos": (Run.collect_demonstrations, "Collects demonstrations with scripted experts: OUTPUT/demos/*.hdf5."),
    "sft": (Run.train_sft, "Supervised fine-tuning on demonstrations: OUTPUT/sft/policy."),
    "train": (Run.train, "PPO from the SFT policy: OUTPUT/rl/policy, OUTPUT/metrics.jsonl with a row per iteration."),
}


def main(command: str, argv: list[str]) -> int:
    """Runs the phase."""
    phase, description = PHASES[command]
    options = parse_run_options(argv, command, description)
    if command == "demos" and not options.config.demonstrations.episodes_per_task:
        raise UserError(
            f"demonstrations.episodes_per_task is 0 (recipe {options.config.recipe}): there is nothing to collect"
        )
    console = Console()
    folder = RunFolder(options.output)
    open_roles = _cluster_of(options, command)
    with Run(folder, options.config, console, options.minutes, open_roles) as run:
        phase(run)
    result = {"output": str(options.output)}
    if command == "demos" and folder.demonstration_rates.is_file():
        result["demonstrations"] = read_json(folder.demonstration_rates)
    if command == "train":
        result["training"] = read_json(folder.train_summary)
    if options.json:
        print_json(result)
    else:
        console.line(f"{command} done: {options.output}")
    return 0


def _cluster_of(options: RunOptions, command: str) -> OpenRoles | None:
    """What opens the cluster that --cluster names.

    Raises:
        UserError: Ray is not installed, or the command trains nothing there.
    """
    if options.cluster is None:
        return None
    if command != "train":
        raise UserError(f"--cluster is for `vlarl train`; `vlarl {command}` runs on this machine: leave it out")
    address, roles = options.cluster, options.roles
    check_installed()
    return lambda run: open_cluster(address, roles, run.config, run.folder.timeline, run.console.line)
