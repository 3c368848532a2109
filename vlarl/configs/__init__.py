"""Frozen, keyword-only configuration dataclasses. They import no heavy library and are validated once."""
