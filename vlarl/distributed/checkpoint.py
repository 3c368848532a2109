"""Tensors of several ranks in one folder, which any number of ranks reads back (torch.distributed.checkpoint)."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn, optim
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from vlarl.distributed.ranks import Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"
UPDATES = "policy_updates"


def save_sharded(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> None:
    """Writes tensors, each rank its own parts, as safetensors; all ranks must call. Nothing in it is a pickle."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _alone_without_warning(), _interruptible():
        dcp.save(dict(tensors), storage_writer=writer, no_dist=ranks.size == 1)


def load_sharded(tensors: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> None:
    """Fills tensors, sharded in any way, with what `save_sharded` wrote."""
    with _alone_without_warning(), _interruptible():
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=ranks.size == 1)


@contextmanager
def _alone_without_warning() -> Iterator[None]:
    """One process needs no process group, which torch would remark each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stays Ctrl-C: torch makes every exception, that one too, its own."""
    try:
        yield
    except CheckpointException as error:
        if any(isinstance(failure, KeyboardInterrupt) for failure, _ in error.failures.values()):
            raise KeyboardInterrupt from error
        raise


def saved_names(folder: Path) -> set[str]:
    """Names of the tensors in a folder of `save_sharded`."""
    return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def optimizer_tensors(optimizer: optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """Adam's moments and step counts by the names of their parameters; none of a parameter that had no step yet."""
    tensors = {}
    for parameter, state in optimizer.state.items():
        for key in MOMENTS:
            tensors[f"{names[parameter]}.{key}"] = state[key]
        tensors[f"{names[parameter]}.{STEP}"] = state[STEP].reshape(1)
    return tensors


def make_optimizer_state(optimizer: optim.Optimizer, names: Mapping[nn.Parameter, str], saved: set[str]) -> None:
    """Makes room in the optimizer for the moments that `saved` names, so that `optimizer_tensors` shows them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if f"{names[parameter]}.{STEP}" in saved:
                state = {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}
                optimizer.state[parameter] = state | {STEP: torch.zeros(())}
