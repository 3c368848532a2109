"""Throughput planner: an iteration of rollout, update and publication as discrete events, from measured pieces."""

from collections.abc import Iterator
from dataclasses import dataclass

from vlarl.configs.checks import require_at_least, require_positive
from vlarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Measured times, seconds.

    Raises:
        UserError: a time that is negative, or nothing that takes time.
    """

    env_turn: float
    """One turn of one environment on one core: simulation and rendering."""
    decode: float
    """One decoding call, whatever its batch."""
    decode_observation: float
    """For each observation of the call."""
    learn_turn: float
    """Scoring and updating per turn of the rollout, on one trainer, all epochs together."""
    publish: float
    """Handing the weights to the generators, and what else an iteration takes by itself."""

    def __post_init__(self) -> None:
        require_at_least(self, "pieces", 0, "decode", "decode_observation", "learn_turn", "publish")
        require_positive(self, "pieces", "env_turn")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many of each role.

    Raises:
        UserError: an impossible number.
    """

    num_generators: int = 1
    num_trainers: int = 1
    env_workers: int
    """Of one generator."""
    num_envs: int
    """Of one generator."""
    max_staleness: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, "layout", 1, "num_generators", "num_trainers", "env_workers", "num_envs")
        require_at_least(self, "layout", 0, "max_staleness")
        if self.env_workers > self.num_envs:
            raise UserError(f"layout.env_workers {self.env_workers} is larger than layout.num_envs {self.num_envs}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Per iteration, seconds."""

    seconds: float
    rollout: float
    learn: float
    decoding: float
    """Share of the rollout in which the generator computes."""
    simulating: float
    """Share of the rollout in which an environment worker computes, on average."""

    @property
    def bottleneck(self) -> str:
        """What to have more of."""
        if self.learn > self.rollout:
            return "trainers"
        return "generators" if self.decoding > self.simulating else "environment workers"


def predict(pieces: Pieces, layout: Layout, *, trajectories: int, turns: int, iterations: int = 20) -> Prediction:
    """Simulates iterations of `trajectories` trajectories of `turns` turns each; the mean after the first few."""
    share = -(-trajectories // layout.num_generators)
    rollout, decoding, simulating = simulate_rollout(pieces, layout, share, turns)
    learn = pieces.learn_turn * trajectories * turns / layout.num_trainers
    ended = list(_iterations(rollout, learn, pieces.publish, layout.max_staleness, iterations))
    skip = iterations // 4
    return Prediction(
        seconds=(ended[-1] - ended[skip]) / (iterations - 1 - skip),
        rollout=rollout,
        learn=learn + pieces.publish,
        decoding=decoding / rollout,
        simulating=simulating / (rollout * layout.env_workers),
    )


def simulate_rollout(pieces: Pieces, layout: Layout, trajectories: int, turns: int) -> tuple[float, float, float]:
    """One generator's rollout: two groups of slots take turns, one is decoded for while the other simulates.

    Returns:
        Its seconds, those in which the generator decoded, and those in which workers simulated, added up.
    """
    workers = layout.env_workers
    slots = range(min(layout.num_envs, trajectories))
    groups = [group for parity in (0, 1) if (group := [s for s in slots if (s // workers) % 2 == parity])]
    waiting = trajectories - len(slots)
    left = dict.fromkeys(slots, turns)
    free = [0.0] * workers
    ready = [0.0] * len(groups)
    now = decoding = simulating = 0.0
    while left:
        for index, group in enumerate(groups):
            active = [slot for slot in group if slot in left]
            if not active:
                continue
            now = max(now, ready[index])
            seconds = pieces.decode + pieces.decode_observation * len(active)
            now += seconds
            decoding += seconds
            for slot in active:
                worker = slot % workers
                free[worker] = max(free[worker], now) + pieces.env_turn
                ready[index] = max(ready[index], free[worker])
                left[slot] -= 1
                if not left[slot]:
                    del left[slot]
                    if waiting:
                        waiting -= 1
                        left[slot] = turns
            simulating += pieces.env_turn * len(active)
    return max(ready), decoding, simulating


def _iterations(rollout: float, learn: float, publish: float, staleness: int, count: int) -> Iterator[float]:
    """When each iteration ends. A rollout begins once the one before it ended and its weights are published."""
    published = [0.0]
    collected = 0.0
    for iteration in range(count):
        weights = published[max(0, iteration - staleness)]
        collected = max(collected, weights) + rollout
        published.append(max(collected, published[-1]) + learn + publish)
        yield published[-1]


def best_layout(
    pieces: Pieces, *, gpus: int, env_workers: int, num_envs: int, max_staleness: int, trajectories: int, turns: int
) -> tuple[Layout, Prediction]:
    """The split of `gpus` GPUs into generators and trainers with the shortest iteration; one GPU does both in turn.

    `env_workers` and `num_envs` are those of one generator.
    """
    candidates = []
    for generators in range(1, max(2, gpus)):
        layout = Layout(
            num_generators=generators,
            num_trainers=max(1, gpus - generators),
            env_workers=env_workers,
            num_envs=num_envs,
            # A GPU that trains cannot decode meanwhile.
            max_staleness=max_staleness if gpus > 1 else 0,
        )
        candidates.append((layout, predict(pieces, layout, trajectories=trajectories, turns=turns)))
    return min(candidates, key=lambda candidate: candidate[1].seconds)
