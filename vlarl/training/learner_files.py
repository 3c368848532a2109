"""A learner's files in a checkpoint: the policy, the value network and the optimizers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn, optim
from torch.distributed.checkpoint.api import CheckpointException

from vlarl.distributed.checkpoint import (
    UPDATES,
    load_sharded,
    make_optimizer_state,
    optimizer_tensors,
    save_sharded,
    saved_names,
)
from vlarl.distributed.fsdp import whole
from vlarl.distributed.ranks import Ranks
from vlarl.errors import UserError
from vlarl.policies.checkpoint import WEIGHTS_NAME, load_weights, save_tensors, trained_state, write_policy

POLICY, VALUE, OPTIMIZERS = "policy", "value.safetensors", "optimizers"


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Turns what goes wrong while a checkpoint is read into a UserError with the way out."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, CheckpointException) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"checkpoint {folder} is damaged ({reason}): delete this folder to go on from the one before"
        ) from error


def save_model(model: nn.Module, folder: Path, ranks: Ranks) -> None:
    """Writes `model.policy` as a policy folder and `model.value`, whole, whatever the number of ranks."""
    # All ranks gather, the first one writes.
    policy, value = (_gather(part) for part in (model.policy, model.value))
    if ranks.is_first:
        write_policy(model.policy.config, policy, folder / POLICY)
        save_tensors(value, folder / VALUE)


def load_model(model: nn.Module, folder: Path) -> None:
    """Reads the weights back, before the model is sharded.

    Raises:
        UserError: a file is missing or damaged.
    """
    load_weights(model.policy, folder / POLICY / WEIGHTS_NAME)
    load_weights(model.value, folder / VALUE)


def save_optimizers(
    model: nn.Module, optimizers: Sequence[optim.Optimizer], policy_updates: int, folder: Path, ranks: Ranks
) -> None:
    """Writes the optimizers' states, each rank its own part."""
    tensors = _optimizer_tensors(model, optimizers) | {UPDATES: torch.tensor([policy_updates])}
    save_sharded(tensors, folder / OPTIMIZERS, ranks)


def load_optimizers(model: nn.Module, optimizers: Sequence[optim.Optimizer], folder: Path, ranks: Ranks) -> int:
    """Reads the optimizers' states, sharded in any way; returns the policy updates so far.

    Raises:
        UserError: a file is missing or damaged.
    """
    with naming_damage(folder):
        saved = saved_names(folder / OPTIMIZERS)
        names = {p: name for name, p in model.named_parameters()}
        for optimizer in optimizers:
            make_optimizer_state(optimizer, names, saved)
        updates = torch.zeros(1, dtype=torch.int64)
        tensors = _optimizer_tensors(model, optimizers) | {UPDATES: updates}
        if tensors.keys() != saved:
            raise ValueError(f"{OPTIMIZERS} holds other tensors: {sorted(tensors.keys() ^ saved)[:3]}")
        load_sharded(tensors, folder / OPTIMIZERS, ranks)
    return int(updates)


def _optimizer_tensors(model: nn.Module, optimizers: Sequence[optim.Optimizer]) -> dict[str, Tensor]:
    names = {p: name for name, p in model.named_parameters()}
    return {name: t for optimizer in optimizers for name, t in optimizer_tensors(optimizer, names).items()}


def _gather(module: nn.Module) -> dict[str, Tensor]:
    return {name: whole(tensor).cpu() for name, tensor in trained_state(module).items()}
