"""The robotic process reward model: labels, the vision-language model that learns them, its metrics, its reward."""
