"""`vlarl recipes [NAME]`: the recipes, or one of them resolved."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from vlarl.cli.options import parse, print_json
from vlarl.recipes import RECIPES, make_recipe


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """Lists the recipes; with a NAME prints that one resolved, as JSON."""

    name: tyro.conf.Positional[str | None] = None
    """Recipe to print."""
    json: bool = False
    """Print the list as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Prints."""
    options = parse(RecipesOptions, argv, command)
    if options.name is not None:
        print_json(make_recipe(options.name).as_dict())
        return 0
    documented = {name: getattr(make, "func", make) for name, make in RECIPES.items()}
    purposes = {name: (make.__doc__ or "").strip().splitlines()[0] for name, make in documented.items()}
    if options.json:
        print_json(purposes)
    else:
        for name, purpose in purposes.items():
            print(f"{name:<28}{purpose}")
    return 0
