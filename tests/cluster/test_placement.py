"""Which role gets which resources, by hand."""

import pytest

from vlarl.cluster.placement import check_store, deal, make_placement
from vlarl.configs.env import EnvConfig
from vlarl.configs.roles import RolesConfig
from vlarl.errors import UserError
from vlarl.recipes import toy

ENV = EnvConfig(name="toy", task_suite="toy", num_envs=10, num_workers=4)


def test_one_gpu_serves_and_the_others_train():
    placement = make_placement(RolesConfig(num_trainers=3, num_generators=1, trainer_cpus=2), ENV, gpus=4)
    assert placement.bundles[0] == {"CPU": 1.0, "GPU": 1.0}
    assert placement.bundles[1:4] == ({"CPU": 2.0, "GPU": 1.0},) * 3
    assert placement.bundles[4:] == ({"CPU": 1.0},) * 4
    assert placement.generator(0) == 0
    assert [placement.trainer(rank) for rank in range(3)] == [1, 2, 3]
    assert [placement.env_worker(0, index) for index in range(4)] == [4, 5, 6, 7]


def test_a_single_gpu_is_halved_and_without_one_cpus_do():
    halves = make_placement(RolesConfig(), ENV, gpus=1)
    assert [bundle["GPU"] for bundle in halves.bundles[:2]] == [0.5, 0.5]
    assert all("GPU" not in bundle for bundle in make_placement(RolesConfig(num_trainers=5), ENV, gpus=0).bundles)


def test_environments_are_dealt_to_the_generators():
    placement = make_placement(RolesConfig(num_generators=3), ENV, gpus=0)
    assert [(env.num_envs, env.num_workers) for env in placement.generator_envs] == [(4, 2), (3, 1), (3, 1)]
    assert [placement.env_worker(*worker) for worker in ((0, 0), (0, 1), (1, 0), (2, 0))] == [4, 5, 6, 7]
    assert len(placement.bundles) == 3 + 1 + 4
    few = make_placement(RolesConfig(envs_per_worker=4), ENV, gpus=0)
    assert [env.num_workers for env in few.generator_envs] == [3]


@pytest.mark.parametrize(
    ("roles", "gpus", "message"),
    [
        ({"num_trainers": 8}, 4, "need 9 GPUs, the cluster has 4: 4 GPUs take .*--roles.num-trainers 3"),
        ({"num_trainers": 2}, 1, "need 3 GPUs, the cluster has 1: a single GPU takes one of each"),
        ({"num_generators": 11}, 0, "num_generators 11 is larger than env.num_envs 10"),
    ],
)
def test_what_does_not_fit_is_refused(roles, gpus, message):
    with pytest.raises(UserError, match=message):
        make_placement(RolesConfig(**roles), ENV, gpus)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_trainers", 0), ("envs_per_worker", 0), ("trainer_cpus", 0.0), ("deadline_minutes", float("nan"))],
)
def test_impossible_numbers_are_named(setting, value):
    with pytest.raises(UserError, match=f"roles.{setting} must be"):
        RolesConfig(**{setting: value})


def test_rollouts_that_the_object_store_cannot_hold_are_refused():
    """64 trajectories of 10 turns: 640 turns of 16 x 16 x 3 bytes, twice."""
    needed = 2 * 640 * 768
    check_store(toy(), 10, needed)
    with pytest.raises(UserError, match=f"640 turns .*--object-store-memory {needed}, .*rollout_batch_size 64"):
        check_store(toy(), 10, needed - 1)


def test_work_is_dealt_by_rates():
    assert deal(range(5), [None, None]) == [[0, 2, 4], [1, 3]]
    # Three times as fast: three of four.
    assert deal(range(8), [30.0, 10.0]) == [[0, 1, 2, 4, 5, 6], [3, 7]]
    # One that was started again is taken to be like the others.
    assert [len(part) for part in deal(range(9), [20.0, None, 40.0])] == [2, 3, 4]
    assert deal([], [1.0, 2.0]) == [[], []]
