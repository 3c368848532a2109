"""Collection of trajectories and the curriculum over tasks."""
