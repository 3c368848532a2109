"""Imports point down the layers, without cycles, and each layer does without the libraries that it must not load."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "vlarl"

# Top down. A module belongs to the longest prefix that matches.
LAYERS = (
    ("vlarl.__main__", "vlarl.cli"),
    ("vlarl.studies",),
    ("vlarl.recipes",),
    ("vlarl.cluster",),
    ("vlarl.training",),
    ("vlarl.evaluation", "vlarl.reporting", "vlarl.doctor", "vlarl.system"),
    ("vlarl.rollout",),
    ("vlarl.inference", "vlarl.distributed", "vlarl.rewards", "vlarl.experts"),
    ("vlarl.policies", "vlarl.envs", "vlarl.data"),
    ("vlarl.algorithms", "vlarl.actions"),
    ("vlarl.types",),
    ("vlarl.configs",),
    ("vlarl.errors", "vlarl.files", "vlarl.allocator"),
    ("vlarl",),
)
RANKS = {prefix: rank for rank, layer in enumerate(LAYERS) for prefix in layer}

SIMULATOR = ("mujoco", "robosuite", "libero", "h5py", "gymnasium")
MODELS = ("torch", "transformers")
HEAVY = (*SIMULATOR, *MODELS, "numba", "scipy", "matplotlib")


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def rank(module: str) -> int:
    prefix = max((p for p in RANKS if module == p or (p != "vlarl" and module.startswith(f"{p}."))), key=len)
    return RANKS[prefix]


@cache
def imported_names(module: str) -> frozenset[tuple[str, int]]:
    """Every "module" or "module.name" that the source imports, at any depth of the code, with its line."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names |= {(f"{base}.{alias.name}", node.lineno) for alias in node.names}
    return frozenset(names)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the package that `module` imports."""
    found = set()
    for name, _ in imported_names(module):
        if name.partition(".")[0] == "vlarl":
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return frozenset(found - {module})


def test_every_module_has_a_layer():
    unknown = [module for module in MODULES if module != "vlarl" and rank(module) == RANKS["vlarl"]]
    assert not unknown, f"name the layer of {unknown} in LAYERS and in CONTRIBUTING.md"


def test_imports_point_down():
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        for other in sorted(imports(module))
        if rank(other) < rank(module)
    ]
    assert not upward, "\n".join(upward)


def test_there_are_no_cycles():
    try:
        tuple(TopologicalSorter({module: imports(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def defines(module: str, name: str) -> bool:
    """Whether `module` exists and its top level binds `name`, or is the parent of a module `name`."""
    if f"{module}.{name}" in MODULES:
        return True
    if module not in MODULES:
        return False
    binding = rf"^(async def|def|class) {name}\b|^(\w+, )*{name}\b.*=|^from .*\b{name}\b|^    {name},$"
    return re.search(binding, MODULES[module].read_text(), re.M) is not None


def test_imported_names_exist():
    missing = [
        f"{MODULES[module].relative_to(REPOSITORY)}:{line}: no {name}"
        for module in MODULES
        for name, line in sorted(imported_names(module))
        if name.startswith("vlarl.") and name not in MODULES and not defines(*name.rsplit(".", 1))
    ]
    assert not missing, "\n".join(missing)


def test_registries_name_what_exists():
    # Lazy registries hold "module" or "module:name".
    missing = [
        f"{MODULES[module].relative_to(REPOSITORY)} names {target}{':' * bool(name)}{name}"
        for module in MODULES
        for target, name in re.findall(r'"(vlarl(?:\.\w+)+)(?::(\w+))?"', MODULES[module].read_text())
        if target not in MODULES or (name and not defines(target, name))
    ]
    assert not missing, "\n".join(missing)


def loaded_by(modules: list[str], libraries: tuple[str, ...]) -> list[str]:
    """Imports `modules` in a fresh interpreter and returns those of `libraries` that it then holds."""
    code = (
        f"import importlib, json, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        f"print(json.dumps([x for x in {libraries!r} if x in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def below(*prefixes: str) -> list[str]:
    return [m for m in MODULES if any(m == p or m.startswith(f"{p}.") for p in prefixes)]


@pytest.mark.parametrize(
    ("modules", "libraries"),
    [
        pytest.param(below("vlarl.envs", "vlarl.experts"), MODELS, id="envs without models"),
        pytest.param(
            below(
                "vlarl.policies",
                "vlarl.algorithms",
                "vlarl.actions",
                "vlarl.inference",
                "vlarl.distributed",
                "vlarl.rollout",
            )
            + ["vlarl.training.learner"],
            SIMULATOR,
            id="learner without simulator",
        ),
        pytest.param(
            below("vlarl.configs", "vlarl.errors", "vlarl.types", "vlarl.recipes", "vlarl.system", "vlarl.doctor"),
            HEAVY,
            id="configs without heavy libraries",
        ),
        pytest.param(["vlarl.cli.main", "vlarl.cli.doctor", "vlarl.cli.recipes"], HEAVY, id="quick commands"),
    ],
)
def test_layers_load_only_what_they_may(modules, libraries):
    assert modules
    assert loaded_by(modules, libraries) == []


def test_only_the_cluster_imports_ray():
    found = [m for m in MODULES if any(name.split(".")[0] == "ray" for name, _ in imported_names(m))]
    assert found and all(module.startswith("vlarl.cluster.") for module in found)


def test_one_file_imports_vllm():
    found = [m for m in MODULES if any(name.split(".")[0] == "vllm" for name, _ in imported_names(m))]
    assert found == ["vlarl.inference.vllm"]


def test_environment_workers_of_a_cluster_load_no_torch():
    pytest.importorskip("ray", reason="needs vlarl[cluster]")
    assert loaded_by(["vlarl.cluster.env_workers"], MODELS) == []


def test_the_import_probe_finds_what_is_loaded():
    assert loaded_by(["json", "ast"], ("ast", "mujoco")) == ["ast"]
