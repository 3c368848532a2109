"""What all tests share: one thread per process, rendering checked before simulator tests, the reference fixture."""

import os
from pathlib import Path

import pytest

# Before torch and numpy are imported, and inherited by worker processes: figures do not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from vlarl.errors import MissingSystemLibraryError  # noqa: E402
from vlarl.system import require_rendering  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `gpu` tests where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stops with the install line and exit code 3 where simulator tests were selected and nothing can render."""
    if session.config.option.collectonly or not any(item.get_closest_marker("libero") for item in session.items):
        return
    try:
        require_rendering()
    except MissingSystemLibraryError as error:
        pytest.exit(f"{error}\n(tests without the simulator: pytest -m 'not libero')", returncode=error.exit_code)


@pytest.fixture(scope="session")
def openvla_fixture() -> Path:
    """Folder of OpenVLA's reference inputs and outputs: VLARL_OPENVLA_FIXTURE, or shared/ beside the repository."""
    default = REPOSITORY.parent / "shared" / "fixtures" / "openvla"
    folder = Path(os.environ.get("VLARL_OPENVLA_FIXTURE", default))
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}: set VLARL_OPENVLA_FIXTURE")
    return folder
