"""Records the upstream episodes that the tests compare with: one task per suite, physics only."""

import argparse
from pathlib import Path

from vlarl.envs.libero.parity import SAMPLE, make_request
from vlarl.envs.libero.recording import record


def main() -> None:
    """Records and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("tests/envs/libero/data"), help="folder")
    parser.add_argument("--steps", type=int, default=90, help="actions per episode")
    options = parser.parse_args()
    for suite, task_id in SAMPLE.items():
        path = options.output / f"{suite}_{task_id}.npz"
        record(make_request(suite, task_id, steps=options.steps, with_frames=False)).save(path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
