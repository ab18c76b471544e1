"""Run something once another module has been imported, without importing it now.

Registering with the Auto classes and pipelines needs modules that cost half a second to import. Who uses them
imports them anyway; this waits for that moment, so that `import genarm_hf` stays cheap.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]
_waiting: dict[str, Callback] = {}


def when_imported(name: str, callback: Callback) -> None:
    """Call `callback(module)` when module `name` has been imported; at once if it already is."""
    if name in sys.modules:
        callback(sys.modules[name])
        return
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _waiting[name] = callback


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing by itself: for the awaited modules it wraps the loader that the other finders give.

    It leaves with the last of them, and comes back where an import fails and may be tried again.
    """

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        callback = _waiting.pop(name, None)
        if callback is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            when_imported(name, callback)
            return spec
        spec.loader = _Loader(spec.loader, callback)
        if not _waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        return spec


class _Loader(importlib.abc.Loader):
    """Stands in for a module's loader until the module is there."""

    def __init__(self, loader: Any, callback: Callback) -> None:
        self._loader, self._callback = loader, callback

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The wrapped loader's module."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module as ever, give it its own loader back, then call back."""
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self._loader
        try:
            self._loader.exec_module(module)
        except BaseException:
            sys.modules.pop(spec.name, None)
            when_imported(spec.name, self._callback)
            raise
        self._callback(module)
