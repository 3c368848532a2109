"""Physical differences between the simulation that a policy learned in and the one that it is evaluated in."""

import math
from dataclasses import dataclass

from vlarl.errors import UserError, unknown_name

KINDS: dict[str, str] = {
    "camera": "metres that the camera is moved to its right",
    "light": "factor on all lights",
    "friction": "factor on the sliding friction of everything",
    "mass": "factor on mass and inertia of every object",
    "delay": "env steps (50 ms each) before an action is executed",
}
"""Kind -> what its strength is."""
_LIMITS = {"camera": (-1.0, 1.0), "delay": (1.0, 100.0)}


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One difference, as a real robot would bring it."""

    kind: str
    strength: float
    """See KINDS."""

    @classmethod
    def parse(cls, text: str) -> "Shift":
        """Reads KIND=STRENGTH, for example camera=0.05.

        Raises:
            UserError: unknown kind (with the nearest), or an impossible strength.
        """
        kind, _, number = text.partition("=")
        if kind not in KINDS:
            raise unknown_name("shift", kind, KINDS)
        try:
            strength = float(number)
        except ValueError:
            strength = math.nan
        low, high = _LIMITS.get(kind, (0.01, 100.0))
        if not low <= strength <= high or (kind == "delay" and strength != int(strength)):
            number = "a whole number" if kind == "delay" else "a number"
            raise UserError(f"the shift {text!r} needs {number} from {low:g} to {high:g}: {KINDS[kind]}")
        return cls(kind=kind, strength=strength)
