"""Environments and their worker processes. Nothing here imports torch."""
