"""How tasks are chosen, where they are of unlike difficulty."""

from dataclasses import replace

from vlarl.configs.training import TrainConfig
from vlarl.studies.ablations import with_curriculum
from vlarl.studies.base import Claim, Study, Variant

TASKS = {"libero_goal": (1, 6, 8)}
"""After SFT on one demonstration each: nearly solved, and two that are about half solved and less."""


def _unlike_tasks(config: TrainConfig) -> TrainConfig:
    tasks = TASKS.get(config.env.task_suite)
    return config if tasks is None else replace(config, env=replace(config.env, task_ids=tasks))


STUDY = Study(
    name="curriculum",
    question="Does it pay to choose tasks by their success?",
    configure=_unlike_tasks,
    variants=(
        Variant(name="frontier", about="most where success is near 50 %", change=with_curriculum("frontier")),
        Variant(name="uniform", about="all tasks alike", change=with_curriculum("uniform")),
        Variant(name="failure", about="the authors' branch: p ~ (1 - s)^(1/T)", change=with_curriculum("failure")),
        Variant(name="paper", about="the paper: p ~ exp((1 - s)/T)", change=with_curriculum("paper")),
    ),
    claims=(
        Claim(text="frontier beats uniform", confidence="medium", better="frontier", worse="uniform"),
        Claim(text="frontier beats the paper's rule", confidence="none", better="frontier", worse="paper"),
        Claim(text="frontier beats the authors' branch", confidence="none", better="frontier", worse="failure"),
    ),
)
