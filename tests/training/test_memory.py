"""The memory planner against counts of the whole step."""

import pytest
import torch

from vlarl.configs.openvla import LLAMA2_7B, LoRAConfig, OpenVLAConfig, OpenVLAPolicyConfig, VisionTowerConfig
from vlarl.errors import UserError
from vlarl.training.memory import (
    LiveBytes,
    count_activation_bytes,
    count_parameter_bytes,
    extrapolate_activations,
    plan_memory,
)

SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_key_value_heads": 4}
SIZES = OpenVLAConfig(
    image_size=56,
    dino=VisionTowerConfig(width=48, depth=2, num_heads=4, mlp_width=96),
    siglip=VisionTowerConfig(width=64, depth=2, num_heads=4, mlp_width=128, num_registers=0),
    text=LLAMA2_7B | SMALL_TEXT | {"num_hidden_layers": 5, "vocab_size": 1064},
)
LORA = LoRAConfig(rank=4)


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


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_extrapolation_is_the_count(checkpointing):
    policy = OpenVLAPolicyConfig(lora=LORA, gradient_checkpointing=checkpointing)
    fixed, per_turn = extrapolate_activations(SIZES, policy, "homogeneous")
    counted = count_activation_bytes(SIZES, policy, "homogeneous", 16)
    assert fixed + 16 * per_turn == pytest.approx(counted, rel=0.1)


def test_checkpointing_and_cheaper_value_networks_take_less():
    def bytes_of(value, checkpointing):
        policy = OpenVLAPolicyConfig(lora=LORA, gradient_checkpointing=checkpointing)
        return count_activation_bytes(SIZES, policy, value, 8)

    assert bytes_of("homogeneous", True) < 0.8 * bytes_of("homogeneous", False)
    assert bytes_of("frozen", False) < 0.8 * bytes_of("homogeneous", False)


def test_what_is_frozen_is_counted_once():
    policy = OpenVLAPolicyConfig(lora=LORA)
    frozen, trained, value = count_parameter_bytes(SIZES, policy, "homogeneous")
    alone, _, head = count_parameter_bytes(SIZES, policy, "frozen")
    small = count_parameter_bytes(SIZES, policy, "small")
    assert trained == small[1] > 0
    # The frozen trunk is a copy with the adapters as they are, and the shared weights are there once.
    assert alone == frozen + value - head or alone > frozen
    assert head == 4 * 2 * (64 + 1)


def test_a_plan_on_one_gpu_and_on_many():
    policy = OpenVLAPolicyConfig(lora=LORA, gradient_checkpointing=True)
    one = plan_memory(SIZES, policy, "homogeneous", gpus=1, gpu_memory_gb=1)
    many = plan_memory(SIZES, policy, "homogeneous", gpus=5, gpu_memory_gb=1)
    assert many.policy_training == one.policy_training // 4
    assert many.frozen_weights < one.frozen_weights
    assert 0 < one.largest_microbatch < many.largest_microbatch
    assert one.step_bytes(one.largest_microbatch) <= one.usable < one.step_bytes(one.largest_microbatch + 1)
    assert plan_memory(SIZES, policy, "homogeneous", gpus=1, gpu_memory_gb=1e-3).largest_microbatch == 0
    with pytest.raises(UserError, match="at least one GPU"):
        plan_memory(SIZES, policy, "homogeneous", gpus=0, gpu_memory_gb=80)
