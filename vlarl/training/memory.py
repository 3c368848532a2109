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
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlarl.actions.codec import ActionCodec
from vlarl.actions.tokenizer import ActionTokenizer
from vlarl.configs.openvla import OpenVLAConfig, OpenVLAPolicyConfig
from vlarl.configs.training import ValueKind
from vlarl.errors import UserError
from vlarl.policies.openvla.model import OpenVLAModel
from vlarl.policies.openvla.policy import OpenVLATrunk
from vlarl.policies.openvla.processor import OpenVLAProcessor
from vlarl.policies.value import make_value_network
from vlarl.policies.vla import PolicyInputs, VLAPolicy
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
class MemoryPlan:
    """Bytes per GPU."""

    frozen_weights: int
    """Of a trainer; sharded over the trainers, with two gathered layers where there are several."""
    policy_training: int
    """Trained parameters of the policy, their gradients and Adam's two moments."""
    value_training: int
    """The same of the value network."""
    activations_fixed: int
    """Of a step, whatever the micro-batch."""
    activations_per_turn: int
    """For each turn of the micro-batch."""
    generator_weights: int
    """Of a generator: the policy, and the decoder's fused projections."""
    kv_cache_per_environment: int
    """Keys and values of one observation while its action is decoded."""
    num_trainers: int
    usable: int
    """Of one GPU, after the reserve."""

    def step_bytes(self, microbatch_size: int) -> int:
        """Peak of a trainer."""
        fixed = self.frozen_weights + self.policy_training + self.value_training + self.activations_fixed
        return fixed + microbatch_size * self.activations_per_turn

    @property
    def largest_microbatch(self) -> int:
        """Turns that fit; 0 if none does."""
        return max(0, (self.usable - self.step_bytes(0)) // self.activations_per_turn)

    @property
    def largest_generation_batch(self) -> int:
        """Observations that one generator can decode at once; where it shares the trainer's GPU, beside its state."""
        shared = self.step_bytes(0) - self.frozen_weights if self.num_trainers == 0 else 0
        return max(0, (self.usable - self.generator_weights - shared) // self.kv_cache_per_environment)


def plan_memory(
    sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind, *, gpus: int, gpu_memory_gb: float
) -> MemoryPlan:
    """Plans for `gpus` GPUs of `gpu_memory_gb` (10^9 bytes): all but one train, one decodes; a single one does both.

    Raises:
        UserError: no GPU, or one without memory.
    """
    if gpus < 1 or not gpu_memory_gb > 0:
        raise UserError(f"the plan needs at least one GPU with memory, got {gpus} with {gpu_memory_gb} GB")
    trainers = max(1, gpus - 1)
    frozen, policy_trained, value_trained = count_parameter_bytes(sizes, policy, value)
    fixed, per_turn = extrapolate_activations(sizes, policy, value)
    layer = _decoder_layer_bytes(sizes)
    decoder = layer * sizes.text["num_hidden_layers"]
    # float32 gradients and two moments beside each trained parameter.
    return MemoryPlan(
        frozen_weights=frozen if trainers == 1 else frozen // trainers + 2 * layer,
        policy_training=4 * policy_trained // trainers,
        value_training=4 * value_trained // trainers,
        activations_fixed=fixed,
        activations_per_turn=per_turn,
        generator_weights=frozen + policy_trained + decoder,
        kv_cache_per_environment=_kv_cache_bytes(sizes, policy),
        num_trainers=0 if gpus == 1 else trainers,
        usable=int((1 - RESERVE) * gpu_memory_gb * 1e9),
    )


def count_parameter_bytes(sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind) -> tuple[int, int, int]:
    """Bytes of the frozen parameters (shared ones once), the policy's trained ones and the value network's."""
    model = _build(sizes, policy, value)
    frozen = {id(p): p.nbytes for p in model.parameters() if not p.requires_grad}
    trained = [sum(p.nbytes for p in part.parameters() if p.requires_grad) for part in (model.policy, model.value)]
    return sum(frozen.values()), trained[0], trained[1]


def extrapolate_activations(sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind) -> tuple[int, int]:
    """Bytes of activations of a step: those whatever the micro-batch, and those per turn."""
    shallow = [replace(sizes, text=sizes.text | {"num_hidden_layers": depth}) for depth in SHALLOW]
    counts = [[count_activation_bytes(s, policy, value, turns) for turns in COUNTED_TURNS] for s in shallow]
    extra = sizes.text["num_hidden_layers"] - SHALLOW[0]
    few, many = (counts[0][i] + extra * (counts[1][i] - counts[0][i]) for i in (0, 1))
    per_turn = (many - few) // (COUNTED_TURNS[1] - COUNTED_TURNS[0])
    return max(0, few - COUNTED_TURNS[0] * per_turn), per_turn


def count_activation_bytes(
    sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind, microbatch_size: int
) -> int:
    """Peak of a PPO step's tensors that are neither parameters nor gradients, counted on fake tensors."""
    model = _build(sizes, policy, value).train()
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
            proprio=torch.zeros(microbatch_size, 12),
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


def _build(sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig, value: ValueKind) -> ActorCritic:
    """Policy and value network without data, weights in bfloat16 and adapters in float32."""
    with torch.device("meta"):
        model = OpenVLAModel(sizes).to(torch.bfloat16)
        processor = OpenVLAProcessor(
            tokenizer=Tokenizer(models.WordLevel()),
            image_size=sizes.image_size,
            mean=torch.zeros(6, 1, 1),
            std=torch.ones(6, 1, 1),
        )
        codec = ActionCodec(ActionTokenizer(sizes.action_vocab_size), policy.action_horizon, policy.action_dim)
        actor = VLAPolicy(policy, OpenVLATrunk(model, processor, policy), codec)
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


def _decoder_layer_bytes(sizes: OpenVLAConfig) -> int:
    width, hidden = sizes.text["hidden_size"], sizes.text["intermediate_size"]
    heads, groups = sizes.text["num_attention_heads"], sizes.text["num_key_value_heads"]
    attention = width * width * (2 + 2 * groups / heads)
    return int(2 * (attention + 3 * width * hidden))


def _kv_cache_bytes(sizes: OpenVLAConfig, policy: OpenVLAPolicyConfig) -> int:
    """Twice: the prompt's cache is copied into the one that has room for the action."""
    text = sizes.text
    positions = 2 * (sizes.num_patches + PROMPT_TOKENS) + policy.num_action_tokens
    per_position = 2 * 2 * text["num_key_value_heads"] * (text["hidden_size"] // text["num_attention_heads"])
    return positions * per_position * text["num_hidden_layers"]
