"""The autoregressive VLA, its value network, policy folders."""
