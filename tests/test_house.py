"""The repository itself: what may lie in it, and that its documents agree with the code."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from vlarl.cli.main import COMMANDS
from vlarl.recipes import RECIPES

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_FILE_BYTES = 5 * 2**20
MAX_MODULE_LINES = 330


def repository_files() -> list[Path]:
    """Files that are tracked, or would be with `git add .`."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [path for name in done.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


FILES = repository_files()
needs_checkout = pytest.mark.skipif(not FILES, reason="not a git checkout")


def offending_lines(pattern: str) -> list[str]:
    """Lines of text files that match, this file left out."""
    found = []
    for path in FILES:
        name = path.relative_to(REPOSITORY).as_posix()
        content = path.read_bytes()
        if path == Path(__file__).resolve() or b"\0" in content:
            continue
        lines = content.decode(errors="replace").splitlines()
        found += [f"{name}:{n}: {line.strip()[:120]}" for n, line in enumerate(lines, 1) if re.search(pattern, line)]
    return found


@needs_checkout
def test_records_of_studies_can_be_committed():
    """A study goes on on another machine from them; runs/ of the user's own is ignored."""
    for name, is_ignored in (
        ("docs/results/runs/0123456789abcdef.json", False),
        ("runs/quickstart/summary.json", True),
    ):
        done = subprocess.run(["git", "-C", str(REPOSITORY), "check-ignore", "-q", "--no-index", name], check=False)
        assert (done.returncode == 0) == is_ignored, name


@needs_checkout
def test_no_packages_of_others_are_tracked():
    archives = (".whl", ".gz", ".zip", ".tar", ".xz")
    assert not [str(path) for path in FILES if path.suffix in archives]


@needs_checkout
def test_files_are_small():
    large = [f"{path}: {path.stat().st_size / 2**20:.1f} MiB" for path in FILES if path.stat().st_size > MAX_FILE_BYTES]
    assert not large, "\n".join(large)


@needs_checkout
@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w.$}\-])/(work|root|home|Users)/[\w.]"),
        (
            "a package registry's host",
            r"pypi\.org|pythonhosted\.org|download\.pytorch|npmjs\.|anaconda\.org|pypi\.nvidia",
        ),
        ("unfinished work", r"\b(TODO|FIXME|XXX)\b"),
        (
            "how the code was written",
            r"(?i)\b(helper|coding|sub-?) ?agents?\b|\bAI[- ](assistant|generated)\b|\bCo-Authored-By\b",
        ),
        ("a merge conflict", r"^(<{7}|>{7}|={7})( |$)"),
    ],
)
def test_no_file_holds(what, pattern):
    found = offending_lines(pattern)
    assert not found, f"{what}:\n" + "\n".join(found)


def test_the_patterns_find_what_they_should():
    patterns = test_no_file_holds.pytestmark[0].args[1]
    samples = (
        "open('/home/me/x')",
        "pip install --index-url https://pypi.org/simple",
        "# TODO: later",
        "a coding agent wrote this",
        "<<<<<<< HEAD",
    )
    for (what, pattern), sample in zip(patterns, samples, strict=True):
        assert re.search(pattern, sample), what


def test_modules_hold_one_idea():
    lengths = {path: len(path.read_text().splitlines()) for path in (REPOSITORY / "vlarl").rglob("*.py")}
    long = [f"{path.relative_to(REPOSITORY)}: {n} lines" for path, n in lengths.items() if n > MAX_MODULE_LINES]
    assert not long, "\n".join(long)


def test_test_files_have_unique_names():
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def constraints() -> dict[str, str]:
    lines = [line.strip() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()]
    requirements = [line for line in lines if line and not line.startswith("#")]
    wrong = [line for line in requirements if not re.fullmatch(r"[\w.\-]+==[\w.]+", line)]
    assert not wrong, f"not name==version, or with an address or a local build: {wrong}"
    return {normalized(name): pinned for name, _, pinned in (line.partition("==") for line in requirements)}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_hold_every_declared_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + extras["dev"] + extras["cluster"]
    names = {normalized(re.match(r"[\w.\-]+", requirement).group()) for requirement in declared}
    assert names <= set(constraints())


def test_constraints_hold_what_the_vllm_extra_needs():
    wanted = {"torch": "2.13.0", "transformers": "5.19.0", "numba": "0.65.0", "numpy": "2.3.5", "mujoco": "3.3.2"}
    assert wanted.items() <= constraints().items()


def test_version_is_in_the_changelog():
    from vlarl import __version__

    assert f"## [{__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()


DOCUMENTS = [
    path for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))) if path.is_file()
]
needs_readme = pytest.mark.skipif(not (REPOSITORY / "README.md").is_file(), reason="no README.md")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs"])
def test_links_resolve(name):
    path = REPOSITORY / name
    documents = sorted(path.rglob("*.md")) if path.is_dir() else [path]
    if not path.exists():
        pytest.skip(f"no {name}")
    broken = []
    for document in documents:
        text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
        for target in targets:
            file, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            linked = document.parent / file if file else document
            if not linked.exists():
                broken.append(f"{document.name}: {target} does not exist")
            elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
                broken.append(f"{document.name}: {target} has no such heading")
    assert not broken, "\n".join(broken)


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@needs_readme
@pytest.mark.parametrize("name", [*RECIPES, *(f"vlarl {command}" for command in COMMANDS)])
def test_recipes_and_commands_are_documented(name):
    assert any(re.search(rf"\b{name}\b", path.read_text()) for path in DOCUMENTS)


def test_make_targets_of_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.M))
    others = [REPOSITORY / name for name in ("CONTRIBUTING.md", ".github/workflows/test.yml", ".ci/run")]
    call = re.compile(r"(?:^|`|run: |timeout .*)make ([a-z-]+)", flags=re.M)
    named = {target for path in (*DOCUMENTS, *others) for target in call.findall(path.read_text())}
    assert {"setup", "test", "check"} <= named <= targets


def test_scripts_can_be_executed():
    for name in (".ci/run", "scripts/make_venv.sh"):
        assert os.access(REPOSITORY / name, os.X_OK), f"chmod +x {name}"


@pytest.mark.parametrize("name", [".ci/run", "scripts/make_venv.sh", "scripts/cluster.slurm"])
def test_shell_scripts_are_well_formed(name):
    subprocess.run(["bash", "-n", REPOSITORY / name], check=True)


def test_make_venv_refuses_an_unsupported_python(tmp_path):
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    script = REPOSITORY / "scripts" / "make_venv.sh"
    named = subprocess.run([script, tmp_path / "venv", fake], capture_output=True, text=True)
    assert (named.returncode, "is not a Python 3.11, 3.12 or 3.13" in named.stderr) == (2, True)
    for name in ("python3.13", "python3.12", "python3.11", "python"):
        (tmp_path / name).symlink_to(fake)
    environment = {"PATH": str(tmp_path)}
    none = subprocess.run(["/bin/sh", script, tmp_path / "venv"], capture_output=True, text=True, env=environment)
    assert (none.returncode, "needs Python 3.11, 3.12 or 3.13" in none.stderr) == (3, True)
    assert not (tmp_path / "venv").exists()


def test_installed_data_is_found():
    from importlib.resources import files

    assert files("vlarl").joinpath("policies/tokenizer.json").is_file()
    assert tuple(map(int, version("torch").split("+")[0].split(".")[:2])) >= (2, 11)
