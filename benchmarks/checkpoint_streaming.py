"""Loads an OpenVLA checkpoint and compares the peak of resident memory with the weights' bytes.

    python scripts/make_synthetic_openvla.py /tmp/openvla-7b
    python benchmarks/checkpoint_streaming.py /tmp/openvla-7b

The peak is the process's high-water mark as the kernel counts it (VmHWM), less what the process held before.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from vlarl.policies.openvla.checkpoint import load_model, open_checkpoint


def resident_bytes(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel reports no {field}")


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.folder)
    # What the import of torch needs is not the checkpoint's.
    before = resident_bytes("VmRSS")
    started = time.perf_counter()
    model = load_model(checkpoint, device=arguments.device)
    seconds = time.perf_counter() - started
    weights = sum(p.nbytes for p in model.parameters())
    peak = resident_bytes("VmHWM") - before
    result = {
        "weights_gb": weights / 1e9,
        "peak_gb": peak / 1e9,
        "ratio": peak / weights,
        "seconds": seconds,
        "gb_per_second": weights / 1e9 / seconds,
        "device": arguments.device,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
