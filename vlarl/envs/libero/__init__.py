"""LIBERO with upstream's physics, stepped and rendered fast."""
