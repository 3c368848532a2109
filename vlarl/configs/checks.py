"""Checks of settings: each raises a UserError that names the setting, its value and what is allowed."""

import math
from dataclasses import fields
from typing import Any

from vlarl.errors import UserError

MAX_SEED = 2**32
"""Seeds are below this: every random number generator in use takes such a one as it is."""


def require_positive(config: object, section: str, *names: str) -> None:
    """Each setting is larger than 0."""
    _require(config, section, names, lambda value: value > 0, "positive")


def require_at_least(config: object, section: str, minimum: int, *names: str) -> None:
    """Each setting is `minimum` or more."""
    requirement = "0 or more" if minimum == 0 else f"at least {minimum}"
    _require(config, section, names, lambda value: value >= minimum, requirement)


def require_share(config: object, section: str, *names: str) -> None:
    """Each setting is in [0, 1]."""
    _require(config, section, names, lambda value: 0 <= value <= 1, "in [0, 1]")


def require_seed(config: object, section: str, name: str = "seed") -> None:
    """The setting is a seed."""
    _require(config, section, (name,), lambda value: 0 <= value < MAX_SEED, f"from 0 to {MAX_SEED - 1}")


def require_finite(config: Any, section: str) -> None:  # noqa: ANN401 - any dataclass
    """No number of the configuration is NaN or infinite."""
    for field in fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{_path(section, field.name)} must be a finite number, got {number}")


def _require(config: object, section: str, names: tuple[str, ...], allows: Any, requirement: str) -> None:  # noqa: ANN401
    for name in names:
        value = getattr(config, name)
        # None switches an optional setting off.
        if value is not None and not allows(value):
            raise UserError(f"{_path(section, name)} must be {requirement}, got {value}")


def _path(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
