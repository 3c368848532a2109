"""Where a scripted expert grasps each object and where it lets go: one entry per way of holding.

Offsets are in the world frame (x away from the robot, y to its left, z up), metres. The fingers open along y, 7.7 cm
wide, and are turned only where a yaw is given, so a bowl is held at its rim and a can across its middle.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class GraspSpec:
    """How one object is grasped and placed. All lengths in metres."""

    offset: tuple[float, float]
    """Grip point relative to the object's centre, (x, y)."""
    grasp_height: float
    """Grip point above the object's origin when the fingers close."""
    lift_height: float
    """How far the grip point rises before the object is carried."""
    release_height: float
    """The object's origin above the target's when the fingers open."""
    target_is_site: bool = False
    """The target is a named region (a site) and not an object."""
    yaw: float = 0.0
    """The hand's turn about the vertical against a start, radians; 0 never turns it."""


BOWL_RIM_LEFT = GraspSpec(offset=(0.0, 0.046), grasp_height=0.015, lift_height=0.10, release_height=0.045)
BOWL_RIM_RIGHT = replace(BOWL_RIM_LEFT, offset=(0.0, -0.046))
BOWL_ONTO_CABINET = replace(BOWL_RIM_LEFT, lift_height=0.33, release_height=0.03, target_is_site=True)
BOTTLE_ONTO_CABINET = GraspSpec(
    offset=(0.0, 0.0), grasp_height=0.12, lift_height=0.36, release_height=0.03, target_is_site=True
)
ACROSS_CAN = GraspSpec(
    offset=(0.0, -0.003), grasp_height=0.012, lift_height=0.18, release_height=0.09, target_is_site=True
)
