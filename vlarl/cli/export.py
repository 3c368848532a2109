"""`vlarl export`: an OpenVLA policy in the published layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlarl.cli.options import parse, print_json
from vlarl.errors import UserError
from vlarl.policies.checkpoint import load_policy


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Writes a trained OpenVLA policy as the published code loads it: tensor names, shards, config, statistics."""

    policy: Path
    """Policy folder, for example RUN/rl/policy."""
    output: Path
    """Folder to write; it must not exist."""
    adapter_only: bool = False
    """Write the adapter in peft's format (adapter_config.json) instead of merging it into the weights."""
    json: bool = False
    """Print the result as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Exports."""
    options = parse(ExportOptions, argv, command)
    if options.output.exists():
        raise UserError(f"{options.output} exists: choose another --output")
    policy = load_policy(options.policy)
    if policy.config.kind != "openvla":
        raise UserError(f"{options.policy} is a {policy.config.kind} policy: only OpenVLA has a published layout")
    policy.export(options.output, merge_adapter=not options.adapter_only)
    size = sum(path.stat().st_size for path in options.output.iterdir())
    if options.json:
        print_json({"output": str(options.output), "bytes": size})
    else:
        print(f"exported {options.output} ({size / 2**20:.0f} MiB)")
    return 0
