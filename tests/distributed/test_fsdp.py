"""Sharded training against one process, in processes of their own.

Tolerances: gradients and weights differ by the order of float32 sums.
"""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.learner_ranks import CASES, run_case
from vlarl.distributed.ranks import ALONE, Ranks

GRADIENT_TOLERANCE, WEIGHT_TOLERANCE = 5e-6, 2e-5


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def run_ranks(size: int, folder: Path, *arguments: str) -> None:
    address = free_address()
    command = [sys.executable, "-m", "tests.distributed.learner_ranks"]
    processes = [
        subprocess.Popen([*command, str(rank), str(size), address, str(folder), *arguments], stderr=subprocess.PIPE)
        for rank in range(size)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(2, folder)
    return folder


@pytest.fixture(scope="module")
def alone():
    return {case: run_case(case, ALONE)[0] for case in CASES}


def largest_difference(ours: dict, theirs: dict, prefix: str) -> float:
    """Relative to the largest number of all tensors with this prefix."""
    names = [name for name in theirs if name.startswith(prefix)]
    assert names and {n for n in ours if n.startswith(prefix)} == set(names)
    scale = max(float(theirs[name].abs().max()) for name in names)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in names) / scale


@pytest.mark.parametrize("case", ["full", "lora"])
def test_two_ranks_equal_one_process(case, two_ranks, alone):
    sharded = load_file(two_ranks / f"{case}.safetensors")
    assert largest_difference(sharded, alone[case], "grad.") < GRADIENT_TOLERANCE
    assert largest_difference(sharded, alone[case], "weight.") < WEIGHT_TOLERANCE
    for name in (n for n in alone[case] if n.startswith("metric.")):
        torch.testing.assert_close(sharded[name], alone[case][name], rtol=1e-4, atol=1e-5, msg=name)


def test_bfloat16_computes_roughly_the_same_and_sums_in_float32(two_ranks, alone):
    sharded = load_file(two_ranks / "bfloat16.safetensors")
    names = [name for name in sharded if name.startswith("grad.")]
    ours, theirs = (torch.cat([grads[name].flatten() for name in names]) for grads in (sharded, alone["full"]))
    error = float((ours - theirs).norm() / theirs.norm())
    # This policy's head is sharpened 20 times, and rounding with it: 0.24 was seen, where weights are ordinary 0.01.
    assert 1e-4 < error < 0.4
    assert all(sharded[name].dtype == torch.float32 for name in names)


def test_a_checkpoint_of_two_ranks_goes_on_alone_and_on_three(two_ranks, tmp_path):
    checkpoint = two_ranks / "checkpoint"
    assert len(list((checkpoint / "optimizers").glob("shard-*.safetensors"))) == 2
    one, learner = run_case("full", ALONE, checkpoint)
    # One step and four, then four more.
    assert learner.policy_updates == 5 + 4
    run_ranks(3, tmp_path, str(checkpoint))
    three = load_file(tmp_path / "full.safetensors")
    assert largest_difference(three, one, "weight.") < WEIGHT_TOLERANCE


def test_a_checkpoint_of_one_process_is_read_on_two_ranks(tmp_path):
    _, learner = run_case("full", ALONE)
    learner.save(tmp_path / "checkpoint")
    one, _ = run_case("full", ALONE, tmp_path / "checkpoint")
    run_ranks(2, tmp_path, str(tmp_path / "checkpoint"))
    two = load_file(tmp_path / "full.safetensors")
    assert largest_difference(two, one, "weight.") < WEIGHT_TOLERANCE


@pytest.mark.parametrize(("count", "size", "microbatch"), [(24, 2, 5), (7, 3, 1), (2, 3, 4), (10, 1, 4)])
def test_shares_are_as_many_on_every_rank_and_cover_each_row_once(count, size, microbatch):
    shares = [list(Ranks(rank, size).share(count, microbatch)) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    rows = [int(row) for share in shares for part, weight in share if weight for row in part]
    assert sorted(rows) == list(range(count))
    assert {weight for share in shares for _, weight in share} <= {0.0, float(size)}


def test_a_single_process_takes_its_micro_batches_in_order():
    assert [part.tolist() for part, _ in ALONE.share(5, 2)] == [[0, 1], [2, 3], [4]]
