"""The code in README.md and docs/ runs, commands in them parse, links lead somewhere, and no page or name is forgotten.

Each file's ```python blocks run one after the other in one namespace, in an empty directory; those marked
```python notest do not, and those marked ```python PACKAGE>=VERSION only there.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import textwrap
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from genarm_hf.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINKING = [*PAGES, *sorted((ROOT / "examples").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PACKAGES = ("genarm_hf", *(f"genarm_hf.{name}" for name in ("training", "evaluation", "baselines", "playground")))
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


@pytest.mark.parametrize("page", LINKING, ids=name)
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


def ragged(text: str) -> list[str]:
    """Rows of tables that have more or fewer cells than the row above them."""
    cells = [line.startswith("|") and len(re.findall(r"(?<!\\)\|", line.rstrip())) for line in text.splitlines()]
    pairs = enumerate(pairwise(cells), 1)
    return [text.splitlines()[place] for place, (one, other) in pairs if one and other and one != other]


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_rows_of_a_table_have_equally_many_cells(page: Path) -> None:
    assert not ragged(_FENCE.sub("", page.read_text(encoding="utf-8")))


def test_ragged_rows_are_found() -> None:
    assert ragged("| a | b |\n|---|---|\n| `x\\|y` | 1 |\n| 2 |\n\n| one |\n") == ["| 2 |"]


def unrun(text: str) -> list[str]:
    """Code of the python blocks that are not run, or not everywhere."""
    found = [match for match in _FENCE.finditer(text) if match["info"].split()[:1] == ["python"]]
    return [textwrap.dedent(match["code"]) for match in found if len(match["info"].split()) > 1]


@pytest.mark.parametrize("page", [p for p in PAGES if unrun(p.read_text(encoding="utf-8"))], ids=name)
def test_snippets_that_do_not_run_name_what_exists(page: Path) -> None:
    for code in unrun(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genarm_hf"):
                module = import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


def commands(text: str) -> list[list[str]]:
    """Arguments of every `genarm-hf` command in blocks of bash."""
    found = []
    for match in _FENCE.finditer(text):
        if match["info"].split()[:1] == ["bash"]:
            for line in match["code"].replace("\\\n", " ").splitlines():
                before, _, arguments = line.partition("genarm-hf ")
                if not before.strip() or before.rstrip().endswith("|") or "=" in before.split()[-1]:
                    words = shlex.split(re.split(r"\s[>&|]", arguments)[0], comments=True)
                    found += [words] if words else []
    return found


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p.read_text(encoding="utf-8"))], ids=name)
def test_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the files lie that commands name
    for command, *arguments in commands(page.read_text(encoding="utf-8")):
        if command.startswith("-"):
            continue
        assert command in COMMANDS, f"{name(page)}: {command}"
        import_module(f"genarm_hf.cli.{command}").parser().parse(arguments)


def test_commands_are_found() -> None:
    text = "```bash\nX=1 genarm-hf bench decode  # slow\ngenarm-hf push DIR \\\n    you/arm\npip install x\n```\n"
    assert commands(text) == [["bench", "decode"], ["push", "DIR", "you/arm"]]


def test_every_page_is_in_the_nav_and_on_the_first_page() -> None:
    pages = {name(page).removeprefix("docs/") for page in PAGES if page.is_relative_to(ROOT / "docs")}
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = set(re.findall(r"[\w./-]+\.md", nav))
    assert not pages - listed, "add them to the nav of mkdocs.yml"
    first = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not pages - set(_LINK.findall(first)) - {"README.md"}, "add them to docs/README.md"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", page, re.MULTILINE))
    public = set(import_module(package).__all__)
    assert listed == (public - {"ARMTrainer", "ARMTrainingArguments"} if package == "genarm_hf.training" else public)


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n- b\n  ```python\n  y = 2\n  ```\n```python notest\nz\n```\n```bash\nls\n```\n"
    text += "```python pytest<2\nv = 3\n```\n```python pytest>2\nw = 4\n```\n"
    assert blocks(text) == [(3, "x = 1"), (7, "y = 2"), (19, "w = 4")]
    assert anchors("# One `two`, three\n") == {"one-two-three"}
