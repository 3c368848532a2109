"""Which skills solve which task: the table of the scripted experts, one entry per LIBERO task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from vlarl.errors import unknown_name
from vlarl.experts.articulated import (
    close_drawer,
    close_microwave,
    drag_dish,
    open_drawer,
    put_mug_in_microwave,
    turn_on,
)
from vlarl.experts.grasps import (
    ACROSS_CAN,
    BOOK,
    BOTTLE_ONTO_CABINET,
    BOWL_IN_DRAWER,
    BOWL_ONTO_CABINET,
    BOWL_RIM_LEFT,
    BOWL_RIM_NEAR,
    BOWL_RIM_RIGHT,
    FLAT_BOX,
    MOKA_POT,
    PLATE_RIM,
    PORCELAIN_MUG,
    WHITE_YELLOW_MUG,
    GraspSpec,
)
from vlarl.experts.pick_place import PickPlace
from vlarl.experts.skills import EarlyClose, SequenceExpert, SkillSpec


class ManipulationTask(Protocol):
    """What the expert must know of a task."""

    @property
    def name(self) -> str:
        """LIBERO's task name, for example put_the_bowl_on_the_plate."""
        ...


Skills = tuple[SkillSpec, ...]


def _bowl_to(target: str, grasp: GraspSpec) -> Skills:
    return (PickPlace(object_name="akita_black_bowl_1", target_name=target, grasp=grasp),)


def _to_basket(name: str, grasp: GraspSpec) -> Skills:
    return (PickPlace(object_name=name, target_name="basket_1_contain_region", grasp=grasp),)


LIBERO_SPATIAL: dict[str, Skills] = {
    # The fingers would hit the neighbouring dishes on the left side of the bowl.
    "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate": _bowl_to(
        "plate_1", BOWL_RIM_RIGHT
    ),
    "pick_up_the_black_bowl_next_to_the_ramekin_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_LEFT),
    "pick_up_the_black_bowl_from_table_center_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_LEFT),
    "pick_up_the_black_bowl_on_the_cookie_box_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_LEFT),
    "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate": _bowl_to(
        "plate_1", BOWL_IN_DRAWER
    ),
    "pick_up_the_black_bowl_on_the_ramekin_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_LEFT),
    "pick_up_the_black_bowl_next_to_the_cookie_box_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_NEAR),
    "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_RIGHT),
    "pick_up_the_black_bowl_next_to_the_plate_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_LEFT),
    "pick_up_the_black_bowl_on_the_wooden_cabinet_and_place_it_on_the_plate": _bowl_to("plate_1", BOWL_RIM_NEAR),
}
LIBERO_OBJECT: dict[str, Skills] = {
    "pick_up_the_alphabet_soup_and_place_it_in_the_basket": _to_basket("alphabet_soup_1", ACROSS_CAN),
    "pick_up_the_chocolate_pudding_and_place_it_in_the_basket": _to_basket(
        "chocolate_pudding_1", replace(ACROSS_CAN, grasp_height=0.010)
    ),
    "pick_up_the_tomato_sauce_and_place_it_in_the_basket": _to_basket(
        "tomato_sauce_1", replace(ACROSS_CAN, grasp_height=0.02, lift_height=0.24)
    ),
    "pick_up_the_cream_cheese_and_place_it_in_the_basket": _to_basket(
        # Off the centre: the hand would rest on the tomato sauce beside it.
        "cream_cheese_1",
        replace(FLAT_BOX, grasp_height=0.0, lift_height=0.2, offset=(-0.022, 0.0)),
    ),
    "pick_up_the_salad_dressing_and_place_it_in_the_basket": _to_basket(
        "salad_dressing_1", replace(FLAT_BOX, grasp_height=0.02, lift_height=0.22)
    ),
    "pick_up_the_bbq_sauce_and_place_it_in_the_basket": _to_basket(
        "bbq_sauce_1", replace(FLAT_BOX, grasp_height=0.0, lift_height=0.2)
    ),
    "pick_up_the_ketchup_and_place_it_in_the_basket": _to_basket(
        "ketchup_1", replace(FLAT_BOX, grasp_height=0.02, lift_height=0.22)
    ),
    "pick_up_the_butter_and_place_it_in_the_basket": _to_basket(
        "butter_1", replace(FLAT_BOX, grasp_height=0.0, lift_height=0.2)
    ),
    "pick_up_the_milk_and_place_it_in_the_basket": _to_basket(
        "milk_1", replace(FLAT_BOX, grasp_height=0.02, lift_height=0.22, yaw=-1.571)
    ),
    "pick_up_the_orange_juice_and_place_it_in_the_basket": _to_basket(
        # Turned as for the milk: otherwise a finger's corner stays under the slope of the carton's top.
        "orange_juice_1",
        replace(FLAT_BOX, grasp_height=0.02, lift_height=0.22, yaw=-1.571),
    ),
}
LIBERO_GOAL: dict[str, Skills] = {
    "open_the_middle_drawer_of_the_cabinet": (open_drawer("wooden_cabinet_1", "middle", 0.110, 1.0),),
    "open_the_top_drawer_and_put_the_bowl_inside": (
        # Out of the shadow of the drawer.
        *drag_dish("akita_black_bowl_1", "table", ((-0.175, 0.08, 0.045), (-0.175, 0.06, 0.15))),
        open_drawer("wooden_cabinet_1", "top", 0.184, 1.0),
        *_bowl_to(
            "wooden_cabinet_1_top_region",
            # The narrow side of the hand passes the open drawer.
            replace(
                BOWL_RIM_NEAR, lift_height=0.29, release_height=0.0, release_offset=(0.0, 0.01), target_is_site=True
            ),
        ),
    ),
    "push_the_plate_to_the_front_of_the_stove": (
        PickPlace(object_name="plate_1", target_name="main_table_stove_front_region", grasp=PLATE_RIM),
    ),
    "turn_on_the_stove": (turn_on("flat_stove_1"),),
    "put_the_bowl_on_the_stove": _bowl_to("flat_stove_1_cook_region", replace(BOWL_RIM_LEFT, target_is_site=True)),
    "put_the_wine_bottle_on_top_of_the_cabinet": (
        PickPlace(object_name="wine_bottle_1", target_name="wooden_cabinet_1_top_side", grasp=BOTTLE_ONTO_CABINET),
    ),
    "put_the_cream_cheese_in_the_bowl": (
        PickPlace(
            object_name="cream_cheese_1",
            target_name="akita_black_bowl_1",
            grasp=replace(FLAT_BOX, target_is_site=False, grasp_height=0.0, release_height=0.06, lift_height=0.2),
        ),
    ),
    "put_the_wine_bottle_on_the_rack": (
        PickPlace(
            object_name="wine_bottle_1",
            target_name="wine_rack_1_top_region",
            grasp=replace(BOTTLE_ONTO_CABINET, release_height=0.0),
        ),
    ),
    "put_the_bowl_on_top_of_the_cabinet": _bowl_to("wooden_cabinet_1_top_side", BOWL_ONTO_CABINET),
    # The hand would hit the cabinet on the right side of the plate.
    "put_the_bowl_on_the_plate": _bowl_to("plate_1", BOWL_RIM_LEFT),
}
_SOUP = replace(ACROSS_CAN, lift_height=0.2)
_SAUCE = replace(ACROSS_CAN, grasp_height=0.02, lift_height=0.24)
_BURNER = "flat_stove_1_cook_region"


def _to_half_basket(name: str, grasp: GraspSpec, side: float) -> Skills:
    """Into the basket beside its centre along x, so that two objects have room."""
    return _to_basket(name, replace(grasp, release_offset=(side, 0.0)))


LIBERO_10: dict[str, Skills] = {
    "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket": (
        *_to_half_basket("alphabet_soup_1", _SOUP, 0.028),
        *_to_half_basket("tomato_sauce_1", _SAUCE, -0.028),
    ),
    "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket": (
        # Turned, the hand passes between the milk and the orange juice.
        *_to_basket("cream_cheese_1", replace(FLAT_BOX, yaw=-0.26)),
        *_to_basket("butter_1", FLAT_BOX),
    ),
    "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it": (
        turn_on("flat_stove_1"),
        PickPlace(object_name="moka_pot_1", target_name=_BURNER, grasp=MOKA_POT),
    ),
    "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate": (
        PickPlace(object_name="porcelain_mug_1", target_name="plate_1", grasp=PORCELAIN_MUG),
        PickPlace(object_name="white_yellow_mug_1", target_name="plate_2", grasp=WHITE_YELLOW_MUG),
    ),
    "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy": (
        PickPlace(object_name="black_book_1", target_name="desk_caddy_1_back_contain_region", grasp=BOOK),
    ),
    "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate": (
        PickPlace(object_name="porcelain_mug_1", target_name="plate_1", grasp=PORCELAIN_MUG),
        PickPlace(
            object_name="chocolate_pudding_1",
            target_name="living_room_table_plate_right_region",
            grasp=replace(FLAT_BOX, grasp_height=0.010, lift_height=0.1, release_height=0.05),
        ),
    ),
    "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket": (
        *_to_half_basket("alphabet_soup_1", _SOUP, 0.02),
        *_to_half_basket("cream_cheese_1", FLAT_BOX, -0.02),
    ),
    "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it": (
        *_bowl_to(
            "white_cabinet_1_bottom_region",
            replace(
                BOWL_RIM_NEAR, lift_height=0.16, release_height=0.0, release_offset=(0.0, -0.02), target_is_site=True
            ),
        ),
        close_drawer("white_cabinet_1", "bottom", 0.041, -1.0),
    ),
    "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it": (
        *put_mug_in_microwave("white_yellow_mug_1", "microwave_1"),
        close_microwave("microwave_1"),
    ),
    "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove": (
        PickPlace(object_name="moka_pot_1", target_name=_BURNER, grasp=replace(MOKA_POT, release_offset=(-0.045, 0.0))),
        PickPlace(object_name="moka_pot_2", target_name=_BURNER, grasp=replace(MOKA_POT, release_offset=(0.045, 0.0))),
    ),
}

EXPERTS: Mapping[str, Skills] = {**LIBERO_SPATIAL, **LIBERO_OBJECT, **LIBERO_GOAL, **LIBERO_10}
"""Task name -> skills in their order. A task belongs here once its expert solves at least 60 % of the training starts
(`scripts/expert_table.py` measures it)."""


def require_expert(task: ManipulationTask) -> None:
    """Checks that a task has an expert.

    Raises:
        UserError: it has none; the message lists the tasks that have one.
    """
    if task.name not in EXPERTS:
        raise unknown_name("task of a scripted expert", task.name, EXPERTS)


def make_expert(task: ManipulationTask, rng: np.random.Generator, recovery_probability: float = 0.0) -> SequenceExpert:
    """Makes the expert of one episode.

    Args:
        task: the slot's task.
        rng: source of the episode's jitter and mistake.
        recovery_probability: chance that the fingers are forced to close too early once, in one of the grasps.

    Raises:
        UserError: no expert for this task.
    """
    require_expert(task)
    specs = EXPERTS[task.name]
    mistake = EarlyClose.sample(rng) if rng.random() < recovery_probability else None
    grasping = [index for index, spec in enumerate(specs) if spec.can_close_early]
    chosen = grasping[int(rng.integers(len(grasping)))] if len(grasping) > 1 else next(iter(grasping), None)
    skills = [spec.begin(rng, mistake if index == chosen else None) for index, spec in enumerate(specs)]
    return SequenceExpert(skills)
