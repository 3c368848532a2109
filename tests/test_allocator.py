"""Freed memory serves the next allocation."""

import os
import subprocess
import sys

import pytest

# Blocks of 24 MiB, touched, freed, and again, as activations are. Prints the page faults of 50 rounds.
SCRIPT = """
import resource, sys
import numpy as np
exec(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    blocks = [np.ones(3 * 2**20 + 1000 * i) for i in range(2)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


KEEP = "from vlarl.allocator import keep_freed_memory; keep_freed_memory()"


def faults(prelude: str, **environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", SCRIPT, prelude]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=clean | environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_blocks_are_used_again():
    kept = faults(KEEP)
    assert faults("") > 10 * kept
    # The user's own choice stays.
    assert faults(KEEP, MALLOC_MMAP_THRESHOLD_="65536") > 10 * kept


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
@pytest.mark.parametrize(
    "prelude",
    [
        "from vlarl.cli.main import main\ntry: main(['no-such-command'])\nexcept SystemExit: pass",
        "from vlarl.envs.libero.rendering import gl_renderer\ngl_renderer()",
    ],
    ids=["command", "frames"],
)
def test_commands_and_frames_keep_what_they_free(prelude):
    assert faults("") > 10 * faults(prelude)
