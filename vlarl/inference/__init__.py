"""Action generators."""
