"""How far the frames of the profile "fast" are from upstream's: PSNR and SSIM per task, and pictures side by side.

    python benchmarks/libero_frames.py [--suites libero_goal ...] [--tasks 0 1 ...] [--pictures docs/images]

Both cameras at 256 pixels, the first evaluation start after settling. SSIM is that of Wang et al. (2004) on luminance,
with a Gaussian window of 1.5 pixels. Finished tasks are kept in the output file; ends with the table of docs/libero.md.
A task that is not built is built; reference models that were built for this are deleted again (0.3 GB each).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.simulator_check import frames, settle  # isort: skip

from PIL import Image
from scipy.ndimage import gaussian_filter

from vlarl.envs.libero.build import build_models, make_upstream
from vlarl.envs.libero.cache import TaskFiles, write_atomically
from vlarl.envs.libero.tasks import STANDARD_LIMITS, load_task, num_tasks

PROFILES = ("reference", "fast")
LUMINANCE = np.array([0.299, 0.587, 0.114])


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images, dB."""
    error = ((one.astype(float) - two) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(one: np.ndarray, two: np.ndarray) -> float:
    """Mean structural similarity of two uint8 RGB images, at most 1."""
    x, y = one @ LUMINANCE, two @ LUMINANCE

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, truncate=3.5)

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    small, large = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + small) * (2 * covariance + large)
    return float((likeness / ((mean_x**2 + mean_y**2 + small) * (variance_x + variance_y + large))).mean())


def draw(suite: str, task_id: int) -> list[list[np.ndarray]]:
    """Frames [profile][camera] of the settled start."""
    return [frames(settle(suite, task_id, 0, profile), profile) for profile in PROFILES]


def write_picture(path: Path, images: list[list[np.ndarray]]) -> None:
    """Reference to the left, fast to the right; both cameras side by side in each."""
    strip = np.concatenate([camera for profile in images for camera in profile], axis=1)
    write_atomically(path, lambda scratch: Image.fromarray(strip).save(scratch, quality=85))


def table(results: dict[str, Any]) -> list[str]:
    """Markdown, one line per suite."""
    lines = ["| suite | tasks | PSNR, mean (lowest) | SSIM, mean (lowest) | farthest task |", "|---|---|---|---|---|"]
    for suite in STANDARD_LIMITS:
        rows = {key: row for key, row in results.items() if key.rpartition(":")[0] == suite}
        if rows:
            peak, likeness = ([row[name] for row in rows.values()] for name in ("psnr", "ssim"))
            farthest = min(rows, key=lambda key: rows[key]["ssim"]).rpartition(":")[2]
            lines.append(
                f"| {suite} | {len(rows)} | {np.mean(peak):.1f} dB ({min(peak):.1f})"
                f" | {np.mean(likeness):.3f} ({min(likeness):.3f}) | {farthest} |"
            )
    return lines


def main() -> None:
    """Measures what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=list(STANDARD_LIMITS), help="suites, default LIBERO's own")
    parser.add_argument("--tasks", nargs="+", type=int, help="task ids of each suite, default all")
    parser.add_argument("--output", type=Path, default=Path("runs/libero_frames.json"), help="file of the results")
    parser.add_argument("--pictures", type=Path, help="folder for a JPEG of each task of this call")
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for suite in options.suites:
        for task_id in options.tasks or range(num_tasks(suite)):
            key, files = f"{suite}:{task_id}", TaskFiles.of(suite, task_id)
            if key in results and options.pictures is None:
                continue
            had_reference = files.reference.is_file()
            if not (had_reference and files.is_loadable()):
                task = load_task(suite, task_id)
                build_models(task, files, make_upstream(task, seed=0), "reference")
            images = draw(suite, task_id)
            if not had_reference:
                files.reference.unlink()
            pairs = list(zip(*images, strict=True))
            results[key] = {
                name: float(np.mean([f(*p) for p in pairs])) for name, f in (("psnr", psnr), ("ssim", ssim))
            }
            write_atomically(options.output, lambda path: path.write_text(json.dumps(results, indent=1)))
            print(f"{key} PSNR {results[key]['psnr']:.1f} dB, SSIM {results[key]['ssim']:.3f}", flush=True)
            if options.pictures is not None:
                write_picture(options.pictures / f"frames_{suite}_{task_id}.jpg", images)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
