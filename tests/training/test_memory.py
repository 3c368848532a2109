"""The memory planner against counts of the whole step."""

from dataclasses import replace

import pytest
import torch

from vlarl.configs.openvla import LLAMA2_7B, LoRAConfig, OpenVLAConfig, OpenVLAPolicyConfig, VisionTowerConfig
from vlarl.errors import UserError
from vlarl.policies.openvla.random_weights import count_parameters, make_random_model
from vlarl.training.memory import (
    LiveBytes,
    StepBytes,
    count_activation_bytes,
    count_parameter_bytes,
    measure_step,
    plan_memory,
)

SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_key_value_heads": 4}
SIZES = OpenVLAConfig(
    image_size=28,
    dino=VisionTowerConfig(width=48, depth=2, num_heads=4, mlp_width=96),
    siglip=VisionTowerConfig(width=64, depth=2, num_heads=4, mlp_width=128, num_registers=0),
    text=LLAMA2_7B | SMALL_TEXT | {"num_hidden_layers": 5, "vocab_size": 1064},
)
LORA = LoRAConfig(rank=4)
POLICY = OpenVLAPolicyConfig(lora=LORA, gradient_checkpointing=True)
GB = 10**9
STEP = StepBytes(
    frozen=14 * GB,
    policy_trained=GB,
    value_trained=GB,
    activations_fixed=2 * GB,
    activations_per_turn=GB,
    decoder_layer=GB,
    num_layers=10,
    kv_cache_per_environment=GB // 2,
)


def test_live_bytes_by_hand():
    with LiveBytes() as live:
        first = torch.zeros(1000)
        second = first + 1
        view = second[:10]
        assert live.now == 8000
        del first
        assert live.now == 4000
        del second
        assert live.now == 4000, "the view keeps the storage"
        del view
        assert (live.now, live.peak) == (0, 8000)


def test_the_extrapolation_is_the_count():
    step = measure_step(SIZES, POLICY, "homogeneous")
    counted = count_activation_bytes(SIZES, POLICY, "homogeneous", 16)
    assert step.activations_fixed + 16 * step.activations_per_turn == pytest.approx(counted, rel=0.1)


def test_checkpointing_and_cheaper_value_networks_take_less():
    kept = count_activation_bytes(SIZES, replace(POLICY, gradient_checkpointing=False), "homogeneous", 8)
    assert count_activation_bytes(SIZES, POLICY, "homogeneous", 8) < 0.8 * kept
    frozen = count_activation_bytes(SIZES, replace(POLICY, gradient_checkpointing=False), "frozen", 8)
    assert frozen < 0.8 * kept


def test_what_is_frozen_is_counted_once():
    frozen, trained, value = count_parameter_bytes(SIZES, POLICY, "homogeneous")
    _, same, head = count_parameter_bytes(SIZES, POLICY, "frozen")
    assert trained == same > 0
    assert head == 4 * 2 * (64 + 1)
    assert value > head
    weights = 2 * count_parameters(make_random_model(SIZES, device="meta", dtype=torch.bfloat16))
    # The value network's copy of the head's adapter is not trained and stays.
    assert weights <= frozen < 1.05 * weights


def test_a_plan_on_one_gpu_by_hand():
    """14 frozen, 4 + 4 trained with gradients and moments, 10 fused for the generator beside it; 92 of 100 usable."""
    plan = plan_memory(STEP, gpus=1, gpu_memory_gb=100)
    assert plan.step_bytes(0) == 24 * GB
    assert plan.largest_microbatch == 92 - 24 - 10
    assert plan.largest_generation_batch == 2 * (92 - 22 - 10)


def test_a_plan_on_many_gpus_by_hand():
    """Two trainers hold half of everything and two layers; the third GPU has the policy twice."""
    plan = plan_memory(STEP, gpus=3, gpu_memory_gb=100)
    assert plan.num_trainers == 2
    assert plan.step_bytes(0) == (7 + 2 + 2 + 2 + 2) * GB
    assert plan.largest_microbatch == 92 - 15
    assert plan.largest_generation_batch == 2 * (92 - (14 + 1 + 10))


def test_nothing_fits_and_no_gpu():
    assert plan_memory(STEP, gpus=1, gpu_memory_gb=20).largest_microbatch == 0
    for gpus, memory in ((0, 80), (1, 0)):
        with pytest.raises(UserError, match="at least one GPU"):
            plan_memory(STEP, gpus=gpus, gpu_memory_gb=memory)


@pytest.mark.slow
def test_the_plan_of_the_7b_is_the_count_of_its_whole_step():
    """All 32 layers with 6 turns on fake tensors, which were not used for the plan; a few minutes."""
    sizes, policy = OpenVLAConfig(), OpenVLAPolicyConfig(gradient_checkpointing=True)
    step = measure_step(sizes, policy, "homogeneous")
    counted = count_activation_bytes(sizes, policy, "homogeneous", 6)
    assert step.activations_fixed + 6 * step.activations_per_turn == pytest.approx(counted, rel=0.1)
