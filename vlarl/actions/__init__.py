"""Action tokens."""
