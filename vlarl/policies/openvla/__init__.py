"""OpenVLA (arXiv 2406.09246) without remote code: model, checkpoints, processor."""
