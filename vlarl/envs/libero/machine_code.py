"""The compiled functions lie in the cache, where every checkout and every worker finds them."""

from pathlib import Path
from typing import Any

import numba.core.caching

from vlarl.envs.libero.cache import COMPILED_SOURCES, code_folder

_FOLDER = Path(__file__).resolve().parent


# Not a public interface: with a numba that has another one, its own places are used.
_Base: type = getattr(numba.core.caching, "_CacheLocator", object)


class _Locator(_Base):
    """Tells numba to use that folder. By itself it looks whether a function's own file has changed, no other."""

    def __init__(self, function: Any) -> None:  # noqa: ANN401 - numba's
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator | None":  # noqa: ANN401 - numba's
        """A locator for our files; None for those of others, and where the cache cannot be written."""
        path = Path(py_file).resolve()
        if path.parent != _FOLDER or path.name not in COMPILED_SOURCES:
            return None
        locator = cls(py_func)
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator

    def get_cache_path(self) -> str:
        return str(code_folder())

    def get_source_stamp(self) -> str:
        return code_folder().parent.name

    def get_disambiguator(self) -> str:
        return str(self._line)


def keep_machine_code() -> None:
    """To be called before a function is compiled."""
    classes = getattr(numba.core.caching.CacheImpl, "_locator_classes", None)
    if classes is not None and _Locator not in classes:
        classes.insert(0, _Locator)
