"""Memory planner: what a training step of an OpenVLA policy takes per GPU, counted before anything is loaded.

The step runs on fake tensors, which have shapes but no data. Activations are affine in the decoder's depth and in the
micro-batch (layers are alike), so two shallow decoders with few and more turns tell those of the whole.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlarl.configs.openvla import OpenVLAConfig, OpenVLAPolicyConfig
from vlarl.configs.training import ValueKind
from vlarl.errors import UserError
from vlarl.inference.local import POSITIONS
from vlarl.policies.openvla.policy import OpenVLATrunk
from vlarl.policies.openvla.random_weights import make_random_model, make_random_policy
from vlarl.policies.value import make_value_network
from vlarl.policies.vla import PolicyInputs
from vlarl.training.learner import ActorCritic

PROMPT_TOKENS = 40
"""Text tokens of a long LIBERO instruction in OpenVLA's prompt."""
RESERVE = 0.08
"""Share of a GPU that CUDA's context, libraries and fragmentation take."""
SHALLOW = (2, 3)
"""Decoder layers of the counted steps."""
COUNTED_TURNS = (4, 8)
"""Micro-batches of the counted steps: below, tensors of fixed size make the peak."""


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that are alive, and their peak; storages are counted once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def forget(_: object) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Runs the operation and counts what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """What one PPO step of policy and value network takes, bytes; nothing is sharded."""

    frozen: int
    """Frozen weights, which both networks share."""
    policy_trained: int
    """Trained parameters of the policy, float32."""
    value_trained: int
    """Trained parameters of the value network, float32."""
    activations_fixed: int
    """Of a step, whatever the micro-batch."""
    activations_per_turn: int
    """For each turn of the micro-batch."""
    decoder_layer: int
    """Weights of one decoder layer."""
    num_layers: int
    kv_cache_per_environment: int
    """Keys and values of one observation while its action is decoded."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes per GPU."""

    frozen_weights: int
    """Of a trainer; sharded over the trainers, with two gathered layers where there are several."""
    policy_training: int
    """Trained parameters of the policy, their gradients and Adam's two moments."""
    value_training: int
    """The same of the value network."""
    activations_fixed: int
    activations_per_turn: int
    generator_weights: int
    """Of a generator: the policy and the decoder's fused projections; beside a trainer only what is not shared."""
    kv_cache_per_environment: int
    num_trainers: int
    """0: one GPU trains and decodes."""
    usable: int
    """Of one GPU, after the reserve."""

    @property
    def state_bytes(self) -> int:
        """What a trainer holds between steps."""
        return self.frozen_weights + self.policy_training + self.value_training

    def step_bytes(self, microbatch_size: int) -> int:
        """Peak of a trainer's step, without a generator beside it."""
        return self.state_bytes + self.activations_fixed + microbatch_size * self.activations_per_turn

    @property
    def beside(self) -> int:
        """What a generator takes on the trainer's GPU."""
        return self.generator_weights if self.num_trainers == 0 else 0

    @property
    def largest_microbatch(self) -> int:
        """Turns that fit; 0 if none does."""
        return max(0, (self.usable - self.beside - self.step_bytes(0)) // self.activations_per_turn)

    @property
    def largest_generation_batch(self) -> int:
        """Observations that the generator can decode at once."""
        trainer = self.state_bytes if self.num_trainers == 0 else 0
        return max(0, (self.usable - trainer - self.generator_weights) // self.kv_cache_per_environment)


def measure_step(
    sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind, *, dtype: torch.dtype = torch.bfloat16
) -> StepBytes:
    """Counts a step on fake tensors; at 7B this takes a minute. `dtype` is that of the frozen weights."""
    frozen, policy_trained, value_trained = count_parameter_bytes(sizes, policy, value, dtype)
    fixed, per_turn = extrapolate_activations(sizes, policy, value, dtype)
    return StepBytes(
        frozen=frozen,
        policy_trained=policy_trained,
        value_trained=value_trained,
        activations_fixed=fixed,
        activations_per_turn=per_turn,
        decoder_layer=_decoder_layer_parameters(sizes) * dtype.itemsize,
        num_layers=sizes.text["num_hidden_layers"],
        kv_cache_per_environment=_kv_cache_bytes(sizes, policy, dtype),
    )


def plan_memory(step: StepBytes, *, gpus: int, gpu_memory_gb: float) -> MemoryPlan:
    """Plans for `gpus` GPUs of `gpu_memory_gb` (10^9 bytes): all but one train, one decodes; a single one does both.

    Raises:
        UserError: no GPU, or one without memory.
    """
    if gpus < 1 or not gpu_memory_gb > 0:
        raise UserError(f"the plan needs at least one GPU with memory, got {gpus} with {gpu_memory_gb} GB")
    trainers = max(1, gpus - 1)
    fused = step.decoder_layer * step.num_layers
    # float32 gradients and two moments beside each trained parameter.
    return MemoryPlan(
        frozen_weights=step.frozen if trainers == 1 else step.frozen // trainers + 2 * step.decoder_layer,
        policy_training=4 * step.policy_trained // trainers,
        value_training=4 * step.value_trained // trainers,
        activations_fixed=step.activations_fixed,
        activations_per_turn=step.activations_per_turn,
        generator_weights=fused if gpus == 1 else step.frozen + step.policy_trained + fused,
        kv_cache_per_environment=step.kv_cache_per_environment,
        num_trainers=0 if gpus == 1 else trainers,
        usable=int((1 - RESERVE) * gpu_memory_gb * 1e9),
    )


def count_parameter_bytes(
    sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind, dtype: torch.dtype = torch.bfloat16
) -> tuple[int, int, int]:
    """Bytes of the frozen parameters (shared ones once), the policy's trained ones and the value network's."""
    model = _build(sizes, policy, value, dtype)
    frozen = {id(p): p.nbytes for p in model.parameters() if not p.requires_grad}
    trained = [sum(p.nbytes for p in part.parameters() if p.requires_grad) for part in (model.policy, model.value)]
    return sum(frozen.values()), trained[0], trained[1]


def extrapolate_activations(
    sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind, dtype: torch.dtype = torch.bfloat16
) -> tuple[int, int]:
    """Bytes of activations of a step: those whatever the micro-batch, and those per turn."""
    shallow = [replace(sizes, text=sizes.text | {"num_hidden_layers": depth}) for depth in SHALLOW]
    counts = [[count_activation_bytes(s, policy, value, turns, dtype) for turns in COUNTED_TURNS] for s in shallow]
    extra = sizes.text["num_hidden_layers"] - SHALLOW[0]
    few, many = (counts[0][i] + extra * (counts[1][i] - counts[0][i]) for i in (0, 1))
    per_turn = (many - few) // (COUNTED_TURNS[1] - COUNTED_TURNS[0])
    return max(0, few - COUNTED_TURNS[0] * per_turn), per_turn


def count_activation_bytes(
    sizes: OpenVLAConfig,
    policy: OpenVLAPolicyConfig,
    value: ValueKind,
    microbatch_size: int,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Peak of a PPO step's tensors that are neither parameters nor gradients, counted on fake tensors."""
    model = _build(sizes, policy, value, dtype).train()
    with FakeTensorMode():
        _make_fake(model)
        live = LiveBytes()
        # Gradients stay from step to step: they are state, not activations.
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        for tensor in chain(model.parameters(), model.buffers(), gradients):
            live.add(tensor)
        tokens = torch.zeros(microbatch_size, policy.num_action_tokens, dtype=torch.int64)
        inputs = PolicyInputs(
            images=torch.zeros(microbatch_size, sizes.image_size, sizes.image_size, 3, dtype=torch.uint8),
            proprio=torch.zeros(microbatch_size, 0),
            instruction_ids=torch.zeros(microbatch_size, PROMPT_TOKENS, dtype=torch.int64),
            instruction_mask=torch.ones(microbatch_size, PROMPT_TOKENS, dtype=torch.bool),
        )
        with live:
            before = live.now
            elapsed = torch.zeros(microbatch_size, dtype=torch.int64)
            logprobs, entropies, values = model(inputs, elapsed, tokens, 1.0)
            loss = logprobs.sum() + entropies.sum() + values.sum()
            del logprobs, entropies, values
            loss.backward()
        return live.peak - before


def _build(sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind, dtype: torch.dtype) -> ActorCritic:
    """Policy and value network without data; adapters are float32, whatever the weights are."""
    actor = make_random_policy(make_random_model(sizes, device="meta", dtype=dtype), policy)
    with torch.device("meta"):
        return ActorCritic(actor, make_value_network(actor, value))


def _make_fake(model: nn.Module) -> None:
    """Replaces meta tensors by fake ones on the CPU; what was shared stays shared."""
    known: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in known:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                known[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            setattr(module, name, known[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        if isinstance(module, OpenVLATrunk):
            module.processor = replace(module.processor, mean=torch.zeros(6, 1, 1), std=torch.ones(6, 1, 1))


def _decoder_layer_parameters(sizes: OpenVLAConfig) -> int:
    width, hidden = sizes.text["hidden_size"], sizes.text["intermediate_size"]
    heads, groups = sizes.text["num_attention_heads"], sizes.text["num_key_value_heads"]
    return 2 * width * width * (heads + groups) // heads + 3 * width * hidden


def _kv_cache_bytes(sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, dtype: torch.dtype) -> int:
    text = sizes.text
    prompt = -(-(sizes.num_patches + PROMPT_TOKENS) // POSITIONS) * POSITIONS
    head_size = text["hidden_size"] // text["num_attention_heads"]
    per_position = 2 * dtype.itemsize * text["num_key_value_heads"] * head_size
    return (prompt + policy.num_action_tokens - 1) * per_position * text["num_hidden_layers"]
