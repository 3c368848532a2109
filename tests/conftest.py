"""What all tests share: one thread per process, rendering checked before simulator tests, the reference fixture."""

import os

import hypothesis
import pytest

# Before torch and numpy are imported, and inherited by worker processes: figures do not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Speed is no test: a busy machine passes too.
hypothesis.settings.register_profile("vlarl", deadline=None)
hypothesis.settings.load_profile("vlarl")

from tests.openvla_fixture import DIFFERENCES, PUBLISHED, Reference, require  # noqa: E402
from vlarl.errors import MissingSystemLibraryError  # noqa: E402
from vlarl.system import require_rendering  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `gpu` tests where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Of the process that hands tests to others: it collects none itself, so it takes simulator tests for selected."""
    if getattr(session.config.option, "numprocesses", None) and "not libero" not in session.config.option.markexpr:
        stop_without_rendering()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stops where simulator tests were selected and nothing can render."""
    if not session.config.option.collectonly and any(item.get_closest_marker("libero") for item in session.items):
        stop_without_rendering()


def stop_without_rendering() -> None:
    """Stops with the install line and exit code 3 where nothing can render."""
    try:
        require_rendering()
    except MissingSystemLibraryError as error:
        pytest.exit(f"{error}\n(tests without the simulator: pytest -m 'not libero')", returncode=error.exit_code)


@pytest.fixture(scope="session")
def published() -> Reference:
    """Numbers of OpenVLA's and VLA-RL's code: VLARL_OPENVLA_FIXTURE, or shared/ beside the repository."""
    return require("published")


@pytest.fixture(scope="session", params=["published", "own"])
def reference(request: pytest.FixtureRequest) -> Reference:
    """Each set of reference numbers."""
    return require(request.param)


@pytest.fixture(scope="session")
def some_reference() -> Reference:
    """One set of reference numbers, for tests that need a checkpoint and its inputs."""
    return require("published" if (PUBLISHED / "checkpoint").is_dir() else "own")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--differences`."""
    parser.addoption("--differences", action="store_true", help="print the largest difference per reference group")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints what `within` kept, as a Markdown table."""
    if not config.getoption("--differences"):
        return
    terminalreporter.section("largest absolute differences from the reference")
    for (name, group), difference in sorted(DIFFERENCES.items()):
        terminalreporter.write_line(f"| {name} | {group} | {difference:.1e} |")
