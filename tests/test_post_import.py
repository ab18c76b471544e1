"""Callbacks after an import: once, late, with nothing left behind."""

import importlib
import sys

import pytest

from genarm_hf import post_import
from genarm_hf.post_import import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A package that nobody has imported yet, with a submodule that fails on the first try."""
    name = "awaited_package"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "inner.py").write_text("value = 1\n")
    (tmp_path / name / "fails.py").write_text(
        "import os\nif os.environ.pop('FAIL', None):\n    raise RuntimeError\nvalue = 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(post_import, "_waiting", {})
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if type(finder).__name__ != "_Finder"])
    yield name
    for loaded in [key for key in sys.modules if key.partition(".")[0] == name]:
        del sys.modules[loaded]


def finders():
    return [finder for finder in sys.meta_path if isinstance(finder, post_import._Finder)]


def test_it_waits_for_the_import(module):
    seen = []
    when_imported(f"{module}.inner", lambda found: seen.append(found.value))
    importlib.import_module(module)
    assert seen == [] and len(finders()) == 1
    importlib.import_module(f"{module}.inner")
    importlib.import_module(f"{module}.inner")
    assert seen == [1]


def test_nothing_is_left_behind(module):
    when_imported(f"{module}.inner", lambda found: None)
    inner = importlib.import_module(f"{module}.inner")
    assert finders() == []
    for loader in (inner.__loader__, inner.__spec__.loader):
        assert type(loader).__module__ == "_frozen_importlib_external"
    importlib.reload(inner)


def test_what_is_imported_already_is_not_waited_for(module):
    importlib.import_module(f"{module}.inner")
    seen = []
    when_imported(f"{module}.inner", lambda found: seen.append(found.value))
    assert seen == [1] and finders() == []


def test_a_failed_import_is_waited_for_again(module, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    seen = []
    when_imported(f"{module}.fails", lambda found: seen.append(found.value))
    with pytest.raises(RuntimeError):
        importlib.import_module(f"{module}.fails")
    assert seen == []
    importlib.import_module(f"{module}.fails")
    assert seen == [2]


def test_a_module_that_does_not_exist_may_come_later(module, tmp_path):
    seen = []
    when_imported(f"{module}.later", lambda found: seen.append(found.value))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{module}.later")
    (tmp_path / module / "later.py").write_text("value = 3\n")
    importlib.invalidate_caches()
    importlib.import_module(f"{module}.later")
    assert seen == [3]


def test_two_may_wait_at_once(module):
    seen = []
    when_imported(f"{module}.inner", lambda found: seen.append(found.value))
    when_imported(f"{module}.fails", lambda found: seen.append(found.value))
    assert len(finders()) == 1
    importlib.import_module(f"{module}.inner")
    assert len(finders()) == 1
    importlib.import_module(f"{module}.fails")
    assert seen == [1, 2] and finders() == []
