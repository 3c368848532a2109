"""Scripted experts with privileged state, and the demonstrations that they give."""
