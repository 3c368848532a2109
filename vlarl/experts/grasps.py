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
    release_yaw: float | None = None
    """The same when the fingers open; None keeps `yaw`."""
    release_offset: tuple[float, float] = (0.0, 0.0)
    """The object's origin relative to the target's when the fingers open, (x, y)."""
    carry_tolerance: float = 0.012
    """Horizontal distance to the place of release at which lowering begins; a stretched arm may not come nearer."""


BOWL_RIM_LEFT = GraspSpec(offset=(0.0, 0.046), grasp_height=0.015, lift_height=0.10, release_height=0.045)
BOWL_RIM_RIGHT = replace(BOWL_RIM_LEFT, offset=(0.0, -0.046))
BOWL_RIM_NEAR = replace(BOWL_RIM_LEFT, offset=(-0.046, 0.0), yaw=-1.571)
"""The narrow side of the hand lies along y, beside a cabinet's front."""
BOWL_IN_DRAWER = replace(
    BOWL_RIM_NEAR, offset=(0.046, 0.0), grasp_height=0.022, lift_height=0.14, release_height=0.06, carry_tolerance=0.02
)
"""The hand fits into the drawer along it, and carries the bowl over the drawer's side."""
BOWL_ONTO_CABINET = replace(BOWL_RIM_LEFT, lift_height=0.33, release_height=0.03, target_is_site=True)
BOTTLE_ONTO_CABINET = GraspSpec(
    offset=(0.0, 0.0), grasp_height=0.12, lift_height=0.36, release_height=0.03, target_is_site=True
)
ACROSS_CAN = GraspSpec(
    offset=(0.0, -0.003), grasp_height=0.012, lift_height=0.18, release_height=0.09, target_is_site=True
)
# Boxes lie with their long side along x.
FLAT_BOX = replace(ACROSS_CAN, offset=(0.0, 0.0), grasp_height=0.004)
# Rims opposite to the handles: mugs stand with their handles along y.
PORCELAIN_MUG = GraspSpec(offset=(0.0, -0.055), grasp_height=0.09, lift_height=0.12, release_height=0.025)
WHITE_YELLOW_MUG = GraspSpec(offset=(0.0, 0.060), grasp_height=0.085, lift_height=0.12, release_height=0.025)
# The knob on the lid, over the centre: the pot hangs upright.
MOKA_POT = GraspSpec(
    offset=(0.0, 0.001), grasp_height=0.078, lift_height=0.08, release_height=0.097, target_is_site=True
)
# The book's thin side lies across the fingers, which turn it along the compartment.
BOOK = GraspSpec(
    offset=(-0.010, 0.007),
    grasp_height=0.115,
    lift_height=0.19,
    release_height=-0.055,
    target_is_site=True,
    yaw=-0.61,
    release_yaw=-1.571,
    release_offset=(0.0, -0.0145),
)
# Held at the rim and slid over the table: lifted, a plate tilts in the fingers.
PLATE_RIM = GraspSpec(
    offset=(0.0, 0.057), grasp_height=0.008, lift_height=0.005, release_height=0.005, target_is_site=True
)
