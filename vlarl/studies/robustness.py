"""What RL's gain is worth where the world differs: LIBERO-PRO's perturbations, and what a real robot would bring.

The nearest thing to sim-to-real that runs without a robot.
"""

from collections.abc import Callable
from dataclasses import replace

from vlarl.configs.env import EnvConfig
from vlarl.envs.libero.tasks import PERTURBATIONS
from vlarl.studies.base import Claim, Study, Variant

SHIFTS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "camera": ("the camera moved to its right by {:g} m", (0.02, 0.05, 0.1)),
    "light": ("all lights times {:g}", (0.75, 0.5, 0.25)),
    "friction": ("sliding friction of everything times {:g}", (0.75, 0.5, 0.25)),
    "mass": ("objects {:g} times as heavy", (1.5, 2.0, 4.0)),
    "delay": ("actions executed {:g} env steps (50 ms each) late", (1.0, 2.0, 3.0)),
}
"""Kind -> what it is, and three strengths."""


def _shifted(shift: str) -> Callable[[EnvConfig], EnvConfig]:
    return lambda env: replace(env, shift=shift)


def _in_suite(name: str) -> Callable[[EnvConfig], EnvConfig]:
    return lambda env: replace(env, task_suite=f"{env.task_suite}_{name}")


def _conditions() -> tuple[Variant, ...]:
    found = [Variant(name="nominal", about="as trained")]
    for kind, (about, strengths) in SHIFTS.items():
        for strength in strengths:
            shift = f"{kind}={strength:g}"
            found.append(Variant(name=shift, about=about.format(strength), evaluated_in=_shifted(shift)))
    for name, about in PERTURBATIONS.items():
        variant = Variant(name=f"libero-pro-{name}", about=f"LIBERO-PRO: {about}", evaluated_in=_in_suite(name))
        found.append(variant)
    return tuple(found)


CONDITIONS = _conditions()
STUDY = Study(
    name="robustness",
    question="Does RL's gain survive where the world differs from training?",
    variants=CONDITIONS,
    environment="libero",
    claims=tuple(
        Claim(
            text=f"RL is above SFT: {condition.about}",
            confidence="medium" if condition.name == "nominal" else "none",
            better=condition.name,
            worse=condition.name,
            metric="lift",
        )
        for condition in CONDITIONS
    ),
)
