"""The learner's weights on their way to generators in other processes: merged, only what changed, and proved.

The publisher sums up every tensor that a generator serves. What has another sum than at the last publication travels;
the receiver sums up what it then holds, all of it, and refuses to act unless it is exactly what the publisher has. So a
generator that skipped the merge of an adapter, missed a version or took part of one cannot go on.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vlarl.distributed.fsdp import whole
from vlarl.distributed.ranks import ALONE, Ranks
from vlarl.policies.served import served_weights

_CHUNK = 1 << 24
"""Elements summed at once: an int64 copy of a large tensor would not fit beside it."""
_MIX = (0x9E3779B97F4A7C15 - (1 << 64), 0xC2B2AE3D27D4EB4F - (1 << 64))
"""Odd multipliers as signed numbers (golden ratio and xxHash's second prime), so that position and value both count."""


class WeightSyncError(RuntimeError):
    """A generator does not hold the weights that were published."""


@dataclass(frozen=True, kw_only=True)
class WeightUpdate:
    """Weights of one version, or what changed in them since another."""

    version: int
    base_version: int | None
    """Version that the receiver must hold; None: all tensors are here."""
    tensors: Mapping[str, np.ndarray]
    """Name without adapters -> values; bfloat16 as uint16, bit for bit (numpy has no such type)."""
    fingerprint: str
    """Of everything that the receiver then serves, whether it travelled or not."""
    seconds: float
    """That the publisher took."""

    @property
    def num_bytes(self) -> int:
        """Bytes that travel."""
        return sum(array.nbytes for array in self.tensors.values())


@torch.no_grad()
def compute_checksum(tensor: Tensor) -> int:
    """A 64-bit sum over position and bits of every element; the same on any device, whatever the order of adding."""
    flat = tensor.detach().contiguous().view(-1)
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    total = 0
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].view(integer).to(torch.int64)
        position = torch.arange(start + 1, start + 1 + len(part), device=part.device)
        mixed = (part ^ (position * _MIX[0])) * _MIX[1]
        # The product's low bits know only the value's low bits: fold the high ones in.
        total += int(((mixed ^ (mixed >> 29)) * _MIX[0]).sum())
    return total % (1 << 64)


def compute_fingerprint(checksums: Mapping[str, int], shapes: Mapping[str, str]) -> str:
    """Hex digest of named checksums; `shapes` gives each tensor's dtype and shape as text."""
    lines = (f"{name} {shapes[name]} {checksums[name]:016x}" for name in sorted(checksums))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class WeightPublisher:
    """Makes updates of one policy, and remembers what the last one was of."""

    def __init__(self, policy: nn.Module, ranks: Ranks = ALONE) -> None:
        self._policy = policy
        self._ranks = ranks
        self._checksums: dict[str, int] = {}
        self._version: int | None = None

    def publish(self, version: int, *, complete: bool = False) -> WeightUpdate | None:
        """Makes the update to `version`; of several ranks all must call, and the first one gets it.

        Args:
            version: of the weights as they are now.
            complete: for a receiver that has nothing: all tensors, not only those that changed.
        """
        started = time.perf_counter()
        complete = complete or self._version is None
        checksums, shapes, tensors = {}, {}, {}
        for name, tensor in served_weights(self._policy, whole):
            if not self._ranks.is_first:
                continue
            checksums[name], shapes[name] = compute_checksum(tensor), describe(tensor)
            if complete or checksums[name] != self._checksums.get(name):
                tensors[name] = to_numpy(tensor)
        base_version, self._version, self._checksums = self._version, version, checksums
        if not self._ranks.is_first:
            return None
        return WeightUpdate(
            version=version,
            base_version=None if complete else base_version,
            tensors=tensors,
            fingerprint=compute_fingerprint(checksums, shapes),
            seconds=time.perf_counter() - started,
        )


class WeightReceiver:
    """Puts updates into a policy without adapters, in place."""

    def __init__(self, policy: nn.Module) -> None:
        self._tensors = dict(served_weights(policy))
        self._checksums = {name: compute_checksum(tensor) for name, tensor in self._tensors.items()}
        self.version: int | None = None

    def take(self, update: WeightUpdate) -> None:
        """Takes an update and proves that all weights are now the publisher's.

        Raises:
            WeightSyncError: a version in between is missing, tensors do not fit, or the fingerprints differ. The
                policy must not act then.
        """
        if update.base_version is not None and update.base_version != self.version:
            raise WeightSyncError(
                f"the update to version {update.version} builds on version {update.base_version}, this generator holds"
                f" {self.version}: publish all weights"
            )
        self.version = None
        for name, array in update.tensors.items():
            if name not in self._tensors:
                raise WeightSyncError(f"version {update.version} has a tensor {name!r}, which this generator does not")
            target = self._tensors[name]
            value = from_numpy(array, target.dtype)
            if value.shape != target.shape:
                raise WeightSyncError(
                    f"{name} is {list(value.shape)} in version {update.version}, here {list(target.shape)}"
                )
            with torch.no_grad():
                target.copy_(value)
            self._checksums[name] = compute_checksum(target)
        held = compute_fingerprint(self._checksums, {name: describe(t) for name, t in self._tensors.items()})
        if held != update.fingerprint:
            raise WeightSyncError(
                f"this generator does not hold the learner's weights of version {update.version}: fingerprint"
                f" {held[:12]}, published {update.fingerprint[:12]}"
            )
        self.version = update.version


def describe(tensor: Tensor) -> str:
    """Dtype and shape as text."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy on the CPU; bfloat16 becomes uint16 with the same bits."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.to("cpu", copy=True).numpy()


def from_numpy(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Inverse of `to_numpy`; arrays from a shared memory are read-only, and nothing writes to the result."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 and tensor.dtype == torch.uint16 else tensor
