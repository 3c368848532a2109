"""Where an actor runs. Imports no torch: environment workers stay small."""

from typing import Any

from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def in_bundle(group: PlacementGroup, bundle: int) -> dict[str, Any]:
    """Options of an actor that takes all of a bundle's resources."""
    resources = group.bundle_specs[bundle]
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    return {
        "num_cpus": resources["CPU"],
        "num_gpus": resources.get("GPU", 0),
        "scheduling_strategy": strategy,
    }
