"""The processes that train one model together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model; the default trains alone and needs no process group."""

    rank: int = 0
    size: int = 1

    def share(self, count: int, microbatch_size: int) -> Iterator[tuple[Tensor, float]]:
        """Splits `count` rows of a batch into this rank's micro-batches.

        Every rank gets as many of them, since each of their forward passes is a meeting of all ranks; one that has run
        out of rows computes the first one again, with weight 0.

        Yields:
            Rows [n] int64 and the weight of their loss: gradients are averaged over the ranks, so it is `size`.
        """
        mine = torch.arange(self.rank, count, self.size).split(microbatch_size) if count > self.rank else ()
        largest = -(-count // self.size)
        for index in range(-(-largest // microbatch_size)):
            if index < len(mine):
                yield mine[index], float(self.size)
            else:
                yield torch.zeros(1, dtype=torch.int64), 0.0

    def sum(self, tensor: Tensor) -> Tensor:
        """Adds up a tensor over the ranks, in place; all of them must call."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_numbers(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Adds up numbers over the ranks, which must name the same ones."""
        if self.size == 1:
            return dict(numbers)
        names = sorted(numbers)
        totals = self.sum(torch.tensor([numbers[name] for name in names], dtype=torch.float64))
        return dict(zip(names, totals.tolist(), strict=True))

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and reports."""
        return self.rank == 0


ALONE = Ranks()


def join_ranks(rank: int, size: int, address: str, timeout_seconds: float) -> Ranks:
    """Joins the process group of a training; on a GPU collectives run through NCCL, on a CPU through gloo.

    Args:
        rank: of this process, from 0.
        size: number of processes; a single one needs no group.
        address: host:port at which rank 0 listens.
        timeout_seconds: after which a meeting with a rank that is gone raises RuntimeError.
    """
    if size > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend,
            init_method=f"tcp://{address}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_seconds),
        )
    return Ranks(rank, size)
