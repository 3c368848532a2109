"""Frames that a worker process writes and the driver reads, without a copy through a pipe."""

import mmap
import os
from multiprocessing.reduction import DupFd

import numpy as np


class SharedFrames:
    """An image per slot in memory that two processes share; hand it to a process as an argument.

    The memory has no name: the kernel frees it when the last process that has it ends, whichever way, so a killed run
    leaves nothing behind.

    Attributes:
        images: [num_slots, size, size, 3] uint8, the same memory in both processes.
    """

    def __init__(self, num_slots: int, size: int) -> None:
        descriptor = os.memfd_create("vlarl-frames")
        os.ftruncate(descriptor, num_slots * size * size * 3)
        self._open(descriptor, num_slots, size)

    def _open(self, descriptor: int, num_slots: int, size: int) -> None:
        memory = mmap.mmap(descriptor, num_slots * size * size * 3)
        self._descriptor = descriptor
        self.images = np.frombuffer(memory, dtype=np.uint8).reshape(num_slots, size, size, 3)

    def __getstate__(self) -> tuple[object, tuple[int, ...]]:
        """For multiprocessing, while it starts a process: the descriptor travels with it."""
        return DupFd(self._descriptor), self.images.shape

    def __setstate__(self, state: tuple[object, tuple[int, ...]]) -> None:
        descriptor, shape = state
        self._open(descriptor.detach(), *shape[:2])
        self.close()

    def close(self) -> None:
        """Closes the handle, once the process that takes it was started; the images stay."""
        os.close(self._descriptor)

    def write(self, slot: int, image: np.ndarray) -> None:
        """Puts an image [size, size, 3] uint8 into a slot.

        Raises:
            ValueError: another shape or type.
        """
        expected = self.images.shape[1:]
        if image.shape != expected or image.dtype != np.uint8:
            raise ValueError(f"the environment's image is {image.shape} {image.dtype}, it must be {expected} uint8")
        self.images[slot] = image

    def read(self, slot: int) -> np.ndarray:
        """Returns a copy of a slot's image."""
        return self.images[slot].copy()
