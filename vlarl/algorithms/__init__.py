"""Pure tensor maths: advantages, losses, PPO's targets."""
