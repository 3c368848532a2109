"""Compiles what would otherwise be compiled in the first seconds of a first run, and kept from then on.

    python scripts/compile.py

`make setup` runs it. Machine code lies in the cache (`vlarl cache`) and beside the decoder's source.
"""

import mujoco
import numpy as np

from vlarl.envs.libero.exact import ExactRobot
from vlarl.envs.libero.stepping import GRIP_SITE, Robot, make_stale_state
from vlarl.inference.local import LocalGenerator
from vlarl.recipes import quickstart
from vlarl.training.build import make_policy
from vlarl.types import Observation

JOINTS = [f"robot0_joint{number}" for number in range(1, 8)]
FINGERS = ["gripper0_finger_joint1", "gripper0_finger_joint2"]


def make_arm() -> mujoco.MjModel:
    """Joints, fingers and grip site with LIBERO's names, and one object."""
    site = f'<site name="{GRIP_SITE}"/>'
    for name in reversed(FINGERS):
        site += f'<body><joint name="{name}" type="slide"/><geom size=".01"/></body>'
    for index, name in enumerate(reversed(JOINTS)):
        axis = "0 0 1" if index % 2 else "0 1 0"
        site = f'<body pos="0 .1 .2"><joint name="{name}" axis="{axis}"/><geom size=".02"/>{site}</body>'
    motors = "".join(f'<motor joint="{name}" ctrlrange="-1 1"/>' for name in [*JOINTS, *FINGERS])
    ball = '<body pos="9 0 0"><freejoint/><geom size=".1"/></body>'
    xml = f"<mujoco><option cone='elliptic'/><worldbody>{site}{ball}</worldbody><actuator>{motors}</actuator></mujoco>"
    return mujoco.MjModel.from_xml_string(xml)


def main() -> None:
    """Runs every compiled function once."""
    model = make_arm()
    stale = make_stale_state(model, np.linspace(0.1, 0.7, 7))
    for make_robot in (Robot, ExactRobot):
        robot = make_robot(model, mujoco.MjData(model), stale)
        robot.step(np.ones(7), is_stale=True)
        robot.step(np.ones(7))
    config = quickstart()
    size = config.policy.image_size
    observation = Observation(
        images=np.zeros((2, size, size, 3), dtype=np.uint8),
        proprio=np.zeros((2, config.policy.proprio_dim), dtype=np.float32),
        instructions=("put the bowl on the stove",) * 2,
    )
    generator = LocalGenerator(make_policy(config).eval(), config.ppo.temperature)
    for noise in (None, np.zeros((2, generator.num_action_tokens))):
        generator.generate(observation, noise)
    print("compiled")


if __name__ == "__main__":
    main()
