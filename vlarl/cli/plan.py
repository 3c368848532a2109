"""`vlarl plan`: throughput on 1 to G GPUs, simulated from measured pieces."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vlarl.cli.options import parse, print_json
from vlarl.errors import UserError
from vlarl.training.pipeline import Pieces, best_layout


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Simulates iterations of the pipeline as discrete events and prints the best split of 1 to G GPUs.

    Times are of one process and one GPU, measured: `make bench-gpu` prints those of decoding and learning,
    time/publish is in metrics.jsonl. Assumed: trajectories of equal length, learning that is split evenly.
    """

    pieces: Pieces
    gpus: int = 8
    """Largest number of GPUs."""
    trajectories: int = 64
    """Per iteration."""
    turns: int = 150
    """Of one trajectory."""
    env_workers: int = 10
    """Cores that simulate for one generator."""
    num_envs: int = 10
    """Environments of one generator."""
    max_staleness: int = 0
    """See ppo.max_staleness."""
    json: bool = False
    """Print the rows as JSON."""

    def __post_init__(self) -> None:
        for name in ("gpus", "trajectories", "turns"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")


def main(command: str, argv: Sequence[str]) -> int:
    """Prints a row per number of GPUs: powers of two, and the largest."""
    options = parse(PlanOptions, argv, command)
    counts = sorted({2**k for k in range(options.gpus.bit_length())} | {options.gpus})
    rows = []
    for gpus in counts:
        layout, prediction = best_layout(
            options.pieces,
            gpus=gpus,
            env_workers=options.env_workers,
            num_envs=options.num_envs,
            max_staleness=options.max_staleness,
            trajectories=options.trajectories,
            turns=options.turns,
        )
        rate = options.trajectories * options.turns / prediction.seconds
        more = {"gpus": gpus, "turns_per_second": rate, "bottleneck": prediction.bottleneck}
        rows.append(asdict(layout) | asdict(prediction) | more)
    if options.json:
        print_json(rows)
        return 0
    print(f"{'GPUs':>5}{'generators':>12}{'trainers':>10}{'s/iteration':>13}{'turns/s':>9}  more of these would help")
    for row in rows:
        print(
            f"{row['gpus']:>5}{row['num_generators']:>12}{row['num_trainers']:>10}{row['seconds']:>13.1f}"
            f"{row['turns_per_second']:>9.1f}  {row['bottleneck']}"
        )
    return 0
