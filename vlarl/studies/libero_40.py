"""All of LIBERO's four suites: SFT against RL, and against what else the same time or the same env steps could buy."""

from collections.abc import Callable
from dataclasses import replace

from vlarl.configs.training import TrainConfig
from vlarl.envs.libero.tasks import STANDARD_LIMITS
from vlarl.recipes import OPENVLA_SUITES, OTHER_SUITE, openvla_7b
from vlarl.studies.base import Claim, Study, Variant

SUITES = {suite.removeprefix("libero_"): suite for suite in OPENVLA_SUITES}
"""Short name -> suite, of 10 tasks each."""
DEMONSTRATIONS, MANY_DEMONSTRATIONS = 10, 50
"""Per task; the second are the upper reference."""
SFT_STEPS = 3000
"""Of the tiny policy."""
SFT_STEPS_PER_ITERATION, MEASURED_LIMIT = 200, 136
"""An iteration of PPO takes as long as that many steps of SFT (measured on the quickstart: 26 s, and 0.14 s per step)
where episodes end after that many env steps; where they may be longer, so are iterations."""


def _in_suite(suite: str, config: TrainConfig) -> TrainConfig:
    """One policy for a suite's ten tasks."""
    if config.policy.kind == "openvla":
        return replace(openvla_7b(suite), seed=config.seed, ppo=config.ppo)
    return replace(
        config,
        # Under the protocol's step limit: some tasks take their experts nearly all of it.
        env=replace(config.env, task_suite=suite, task_ids=tuple(range(10)), max_episode_steps=None),
        policy=replace(config.policy, max_instruction_tokens=OTHER_SUITE.max_instruction_tokens),
        demonstrations=replace(config.demonstrations, episodes_per_task=DEMONSTRATIONS),
        sft=replace(config.sft, num_steps=SFT_STEPS),
        evaluation=replace(config.evaluation, validation_episodes_per_task=5),
    )


def _longer_sft(config: TrainConfig) -> TrainConfig:
    """No RL, but SFT for about as long as SFT and RL take together."""
    per_iteration = SFT_STEPS_PER_ITERATION * STANDARD_LIMITS[config.env.task_suite] / MEASURED_LIMIT
    steps = config.sft.num_steps + round(per_iteration * config.ppo.total_iterations)
    ppo = replace(config.ppo, num_iterations=0)
    return replace(config, sft=replace(config.sft, num_steps=steps), ppo=ppo)


def _sft_more(config: TrainConfig) -> TrainConfig:
    if config.policy.kind == "openvla":
        # The published fine-tunes learned from 50 demonstrations per task; these are our experts'.
        config = replace(config, demonstrations=replace(config.demonstrations, episodes_per_task=MANY_DEMONSTRATIONS))
    return _longer_sft(config)


def _rejection(config: TrainConfig) -> TrainConfig:
    ppo = replace(config.ppo, critic_warmup_iterations=0, num_iterations=config.ppo.total_iterations)
    return replace(config, algorithm="rejection", ppo=ppo)


def _sft_50(config: TrainConfig) -> TrainConfig:
    if config.policy.kind == "openvla":
        # The published fine-tune as it is.
        return replace(config, ppo=replace(config.ppo, num_iterations=0))
    demonstrations = replace(config.demonstrations, episodes_per_task=MANY_DEMONSTRATIONS)
    return _longer_sft(replace(config, demonstrations=demonstrations))


METHODS: dict[str, tuple[str, Callable[[TrainConfig], TrainConfig]]] = {
    "rl": ("SFT, then the recipe's PPO", lambda config: config),
    "sft-more": ("SFT for about as long as SFT and RL take together", _sft_more),
    "rejection": ("SFT, then imitation of its own successes, RL's env steps", _rejection),
    "sft-50": (f"SFT on {MANY_DEMONSTRATIONS} demonstrations per task, an upper reference", _sft_50),
}
"""Name -> what it is, and how it changes the configuration of a suite."""


def _variant(method: str, short: str) -> Variant:
    about, change = METHODS[method]
    suite = SUITES[short]
    return Variant(
        name=f"{method} {short}", about=f"{suite}: {about}", change=lambda config: change(_in_suite(suite, config))
    )


def _all(method: str) -> tuple[str, ...]:
    return tuple(f"{method} {short}" for short in SUITES)


STUDY = Study(
    name="libero-40",
    question="Does RL raise success on all 40 tasks, and more than what else the same compute could buy?",
    variants=tuple(_variant(method, short) for short in SUITES for method in METHODS),
    environment="libero",
    claims=(
        Claim(
            text="RL is above SFT on the mean of 40 tasks",
            confidence="high",
            better=_all("rl"),
            worse=_all("rl"),
            metric="lift",
        ),
        Claim(
            text="RL is above SFT for about the same time", confidence="none", better=_all("rl"), worse=_all("sft-more")
        ),
        Claim(
            text="RL is above rejection sampling with the same env steps",
            confidence="none",
            better=_all("rl"),
            worse=_all("rejection"),
        ),
        *(
            Claim(
                text=f"RL is above SFT in {suite}",
                confidence="high",
                better=f"rl {short}",
                worse=f"rl {short}",
                metric="lift",
            )
            for short, suite in SUITES.items()
        ),
    ),
)
