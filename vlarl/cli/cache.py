"""`vlarl cache`: the built simulator models and machine code on disk."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from vlarl.cli.options import parse, print_json
from vlarl.envs.libero.cache import CacheEntry, cache_entries, cache_root, clear_cache, is_current


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Shows built tasks and machine code; with --clear deletes them. They are built again (20 s each) when needed."""

    clear: Literal["old", "all"] | None = None
    """Delete what other versions have built (old), or everything (all)."""
    json: bool = False
    """Print the entries as JSON; with --clear, those deleted."""


def main(command: str, argv: Sequence[str]) -> int:
    """Prints, or deletes and prints."""
    options = parse(CacheOptions, argv, command)
    entries = cache_entries()
    if options.clear is not None:
        entries = [e for e in entries if options.clear == "all" or not is_current(e)]
        clear_cache(entries)
    if options.json:
        print_json({"folder": str(cache_root()), "entries": [asdict(entry) for entry in entries]})
        return 0
    if options.clear is None:
        for entry in entries:
            print(f"{entry.recipe:<26}{entry.name:<24}{_mib(entry.size_bytes):>8}")
    print(_summary(entries, options))
    return 0


def _summary(entries: list[CacheEntry], options: CacheOptions) -> str:
    total = _mib(sum(entry.size_bytes for entry in entries))
    if options.clear is not None:
        return f"deleted {len(entries)} folders, {total}, in {cache_root()}"
    old = sum(not is_current(entry) for entry in entries)
    hint = f"; {old} of other versions (--clear old deletes them)" if old else ""
    return f"{len(entries)} folders, {total}, in {cache_root()}{hint}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
