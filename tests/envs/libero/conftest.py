import pytest

from vlarl.configs.env import EnvConfig
from vlarl.envs.libero.build import fixture_bodies, make_upstream
from vlarl.envs.libero.env import make_environments, prepare
from vlarl.envs.libero.tasks import load_task

STOVE_CONFIG = EnvConfig(name="libero", task_suite="libero_goal", task_ids=(7,))


@pytest.fixture(scope="session")
def stove_slot():
    """A slot of "turn on the stove"; every task of libero_goal has this scene."""
    prepare(STOVE_CONFIG, print)
    return make_environments(STOVE_CONFIG, 1)[0]


@pytest.fixture(scope="session")
def upstream():
    """Upstream's environment of the same task, and the fixture positions that its first reset gave."""
    environment = make_upstream(load_task("libero_goal", 7), seed=0)
    model = environment.sim.model._model
    return environment, model.body_pos[fixture_bodies(environment.env)].copy()
