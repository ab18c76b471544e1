"""The code in README.md and docs/ runs, and their links lead somewhere.

Each file's ```python blocks run one after the other in one namespace, in an empty directory; those marked
```python notest do not, and those marked ```python PACKAGE>=VERSION only there.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_ANCHOR_DROPPED = re.compile(r"[^\w\- ]")


def blocks(text: str) -> list[tuple[int, str]]:
    """First line and code of every python block that is to be run."""
    found = []
    for match in _FENCE.finditer(text):
        language, *marks = match["info"].split() or [""]
        if language == "python" and "notest" not in marks and all(installed(mark) for mark in marks):
            indent = len(match["indent"])
            code = "\n".join(line[indent:] for line in match["code"].splitlines())
            found.append((text.count("\n", 0, match.start()) + 2, code))
    return found


def installed(requirement: str) -> bool:
    """Whether `package>=version` is."""
    wanted = Requirement(requirement)
    try:
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False


def anchors(text: str) -> set[str]:
    """The names GitHub gives to the headings."""
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", _FENCE.sub("", text), re.MULTILINE)
    return {_ANCHOR_DROPPED.sub("", heading.lower()).replace(" ", "-") for heading in headings}


def has_anchor(page: Path, anchor: str) -> bool:
    return not anchor or page.suffix != ".md" or anchor in anchors(page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p.read_text(encoding="utf-8"))], ids=name)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    # blank lines put each block where it is in the page, so that a traceback names the page's own line
    script = ""
    for line, code in blocks(page.read_text(encoding="utf-8")):
        script += "\n" * (line - 1 - script.count("\n")) + code + "\n"
    runner = f"exec(compile({script!r}, {name(page)!r}, 'exec'), {{'__name__': '__main__'}})"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", runner], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in _LINK.findall(re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        destination = (page.parent / path).resolve() if path else page
        if not destination.exists() or not destination.is_relative_to(ROOT) or not has_anchor(destination, anchor):
            broken.append(target)
    assert not broken, f"{name(page)}: {broken}"


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n- b\n  ```python\n  y = 2\n  ```\n```python notest\nz\n```\n```bash\nls\n```\n"
    text += "```python pytest<2\nv = 3\n```\n```python pytest>2\nw = 4\n```\n"
    assert blocks(text) == [(3, "x = 1"), (7, "y = 2"), (19, "w = 4")]
    assert anchors("# One `two`, three\n") == {"one-two-three"}
