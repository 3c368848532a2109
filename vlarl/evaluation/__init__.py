"""Evaluation protocol and statistics."""
