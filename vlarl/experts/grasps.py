"""Where a scripted expert grasps each object and where it lets go: a table, one entry per task.

Offsets are in the world frame (x away from the robot, y to its left, z up), metres. The fingers open along y, 7.7 cm
wide, and are never turned, so a bowl is held at its rim and a can across its middle.
"""

from dataclasses import dataclass


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


_BOWL_ON_PLATE = GraspSpec(offset=(0.0, 0.046), grasp_height=0.015, lift_height=0.10, release_height=0.022)
_BOWL_ON_STOVE = GraspSpec(
    offset=(0.0, 0.046), grasp_height=0.015, lift_height=0.10, release_height=0.022, target_is_site=True
)
_CAN_IN_BASKET = GraspSpec(
    offset=(0.0, -0.003), grasp_height=0.012, lift_height=0.18, release_height=0.13, target_is_site=True
)

GRASPS: dict[str, GraspSpec] = {
    "put_the_bowl_on_the_plate": _BOWL_ON_PLATE,
    "put_the_bowl_on_the_stove": _BOWL_ON_STOVE,
    "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate": _BOWL_ON_PLATE,
    "pick_up_the_alphabet_soup_and_place_it_in_the_basket": _CAN_IN_BASKET,
    "pick_up_the_chocolate_pudding_and_place_it_in_the_basket": _CAN_IN_BASKET,
    "pick_up_the_tomato_sauce_and_place_it_in_the_basket": _CAN_IN_BASKET,
}
"""Task name -> grasp. A task belongs here once its expert solves at least 90 % of the training starts."""
