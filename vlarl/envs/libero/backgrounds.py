"""What stands still in a camera's picture: drawn once, then only what moves is drawn over it."""

from collections import OrderedDict
from dataclasses import dataclass

import mujoco
import numpy as np

CAPACITY_BYTES = 16 * 2**20
"""Of a process's backgrounds: those of 580 starts at 64 pixels, 47 at 224."""
_DEFAULT_RGBA = np.array([0.5, 0.5, 0.5, 1.0])
"""A geom of this colour takes its material's."""


@dataclass(frozen=True)
class Background:
    """A picture of what stands still."""

    image: np.ndarray
    """[H, W, 3] uint8."""
    depth: np.ndarray
    """[H, W] float32, the depth buffer: 0 far, 1 near; without what can be seen through."""
    veiled: np.ndarray
    """[V] int32, the pixels, row by row, of what is seen through something."""
    veil: np.ndarray
    """[V] float32, the depth of the nearest thing that they are seen through."""

    def cover(self, image: np.ndarray, depth: np.ndarray) -> np.ndarray | None:
        """Puts a picture of what moves over this one; None if that is seen through something, which tints it."""
        # Strictly: MuJoCo draws what stands still last, and there the later one wins at equal depth.
        is_nearer = depth > self.depth
        if (is_nearer.ravel()[self.veiled] & (depth.ravel()[self.veiled] <= self.veil)).any():
            return None
        return np.where(is_nearer[..., None], image, self.image)

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""
        return self.image.nbytes + self.depth.nbytes + self.veiled.nbytes + self.veil.nbytes


class Backgrounds:
    """The backgrounds that were used last, by everything that they depend on."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], Background] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: tuple[object, ...]) -> Background | None:
        """The background of that key, if it is still there."""
        background = self._kept.get(key)
        if background is not None:
            self._kept.move_to_end(key)
        return background

    def add(self, key: tuple[object, ...], background: Background) -> None:
        """Keeps it, in the place of those that have not been used for longest."""
        self._kept[key] = background
        self._num_bytes += background.num_bytes
        while self._num_bytes > CAPACITY_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes


def are_transparent(model: mujoco.MjModel) -> np.ndarray:
    """Which geoms can be seen through, [ngeom] bool: by their own colour, or by their material's if they have none."""
    alpha = model.geom_rgba[:, 3].copy()
    takes_material = (model.geom_matid >= 0) & (model.geom_rgba == _DEFAULT_RGBA.astype(np.float32)).all(axis=1)
    alpha[takes_material] = model.mat_rgba[model.geom_matid[takes_material], 3]
    return (alpha > 0) & (alpha < 1)


def is_camera_still(model: mujoco.MjModel, camera: int) -> bool:
    """Whether a camera never moves."""
    is_fixed = model.cam_mode[camera] == mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    return bool(is_fixed and model.body_weldid[model.cam_bodyid[camera]] == 0)
