"""SFT, PPO, and the phases of a run."""
