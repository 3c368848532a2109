"""Reward functions over rollouts."""
