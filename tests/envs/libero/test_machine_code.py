"""Compiled functions are found again, and compiled again when any of their files has changed."""

from pathlib import Path

from vlarl.envs.libero import cache, compiled, culling
from vlarl.envs.libero.machine_code import _Locator


def test_all_files_of_compiled_functions_count(monkeypatch, tmp_path):
    folder = Path(cache.__file__).parent
    using = {path.name for path in folder.glob("*.py") if "@compiled" in path.read_text()}
    assert using <= set(cache.COMPILED_SOURCES)
    before = cache.code_folder.__wrapped__()
    for name in cache.COMPILED_SOURCES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    assert cache.code_folder.__wrapped__() == before
    with (tmp_path / "culling.py").open("a") as source:
        source.write("# changed\n")
    assert cache.code_folder.__wrapped__() != before


def test_only_our_functions_are_kept_there():
    locator = _Locator.from_function(culling.support.py_func, culling.__file__)
    assert locator is not None and Path(locator.get_cache_path()) == cache.code_folder()
    assert _Locator.from_function(culling.support.py_func, __file__) is None
    assert Path(compiled.run_env_step.stats.cache_path) == cache.code_folder()


def test_without_a_cache_numba_finds_another_place(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr("vlarl.envs.libero.machine_code.code_folder", lambda: tmp_path / "file" / "numba")
    assert _Locator.from_function(culling.support.py_func, culling.__file__) is None


def test_machine_code_of_this_version_is_not_old(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "cache_root", lambda: tmp_path)
    for name in (cache.code_folder().parent.name, "libero-code-000000000000", cache.current_recipe()):
        (tmp_path / name / "something").mkdir(parents=True)
    old = [entry.recipe for entry in cache.cache_entries() if not cache.is_current(entry)]
    assert old == ["libero-code-000000000000"]
