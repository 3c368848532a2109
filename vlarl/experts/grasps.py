"""Where a scripted expert grasps each object and where it lets go: a table, one entry per task.

Offsets are in the world frame (x away from the robot, y to its left, z up), metres. The fingers open along y, 7.7 cm
wide, and are never turned, so a bowl is held at its rim and a can across its middle.
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


_BOWL_RIM_LEFT = GraspSpec(offset=(0.0, 0.046), grasp_height=0.015, lift_height=0.10, release_height=0.045)
_BOWL_RIM_RIGHT = replace(_BOWL_RIM_LEFT, offset=(0.0, -0.046))
_ACROSS_CAN = GraspSpec(
    offset=(0.0, -0.003), grasp_height=0.012, lift_height=0.18, release_height=0.09, target_is_site=True
)

GRASPS: dict[str, GraspSpec] = {
    # The hand would hit the cabinet on the right side of the plate.
    "put_the_bowl_on_the_plate": _BOWL_RIM_LEFT,
    "put_the_bowl_on_the_stove": replace(_BOWL_RIM_LEFT, target_is_site=True),
    # The fingers would hit the neighbouring dishes on the left side of the bowl.
    "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate": _BOWL_RIM_RIGHT,
    "pick_up_the_alphabet_soup_and_place_it_in_the_basket": _ACROSS_CAN,
    "pick_up_the_chocolate_pudding_and_place_it_in_the_basket": replace(_ACROSS_CAN, grasp_height=0.010),
    "pick_up_the_tomato_sauce_and_place_it_in_the_basket": replace(_ACROSS_CAN, grasp_height=0.02, lift_height=0.24),
}
"""Task name -> grasp. A task belongs here once its expert solves at least 90 % of the training starts."""
