"""What makes the pages that GitHub shows into a site: formulas, and files of the repository that pages link to.

Formulas are written as GitHub reads them and become MathML when the site is built, so that a reader's browser needs no
script for them. Files outside docs/ (examples, the changelog) become pages below repository/.
"""

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"(^ *```[^\n]*\n.*?^ *```[ ]*$)", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"\$`(?P<formula>[^`\n]+)`\$|`[^`\n]+`")
_FENCE_MARKS = re.compile(r"^( *```\w+) [^\n`]+$", re.MULTILINE)
_LINK = re.compile(r"(?P<before>\]\(\s*)(?P<target>[^)\s#:]+)(?P<after>(?:#[^)\s]*)?\s*\))")
_DISPLAY = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".ipynb": "json", ".toml": "toml"}


def on_files(files: Files, config) -> Files:
    """Adds a page for every file or folder of the repository that a page links to, and for what those link to."""
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    made = set()
    while pages:
        uri, text = pages.pop()
        for path in sorted(linked(uri, text) - made):
            made.add(path)
            page = File.generated(config, site_uri(path), content=as_page(path))
            files.append(page)
            pages.append((page.src_uri, page.content_string))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Formulas to MathML, links out of docs/ to the pages that `on_files` made; code loses the tests' marks."""
    markdown = _DISPLAY.sub(lambda match: formula(match[1], "block"), _FENCE_MARKS.sub(r"\1", markdown))
    return outside_code(markdown, lambda text: with_links(text, page.file.src_uri))


def formula(latex: str, display: str = "inline") -> str:
    """MathML of a formula; pipes are escaped, which would end a cell of a table."""
    mathml = convert(" ".join(latex.split()), display=display).replace("|", "&#x7C;")
    # a span, since a line that begins with another tag is no longer part of its paragraph
    return f'<div class="formula">{mathml}</div>' if display == "block" else f"<span>{mathml}</span>"


def outside_code(markdown: str, change) -> str:
    """Changes what is neither a block of code nor code within a line; formulas within a line become MathML."""
    parts = _FENCED.split(markdown)
    return "".join(part if number % 2 else _outside_spans(part, change) for number, part in enumerate(parts))


def _outside_spans(text: str, change) -> str:
    # a link's text may be code, so code is put aside and not cut out
    kept: list[str] = []

    def keep(match: re.Match) -> str:
        kept.append(formula(match["formula"]) if match["formula"] else match[0])
        return f"\0{len(kept) - 1}\0"

    return re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], change(_SPAN.sub(keep, text)))


def linked(uri: str, markdown: str) -> set[str]:
    """Paths, from the root of the repository, of what a page links to outside docs/."""
    found: set[str] = set()

    def collect(text: str) -> str:
        found.update(path for match in _LINK.finditer(text) if (path := outside(uri, match["target"])))
        return text

    outside_code(markdown, collect)
    return found


def with_links(text: str, uri: str) -> str:
    """Links out of docs/ lead to the generated pages."""

    def replace(match: re.Match) -> str:
        path = outside(uri, match["target"])
        if not path:
            return match[0]
        return match["before"] + posixpath.relpath(site_uri(path), posixpath.dirname(uri) or ".") + match["after"]

    return _LINK.sub(replace, text)


def outside(uri: str, target: str) -> str | None:
    """Path from the root of the repository of what a link names, if that is there and not in docs/."""
    folder = posixpath.dirname(uri)
    here = folder.removeprefix("repository").lstrip("/") if folder.startswith("repository") else f"docs/{folder}"
    path = posixpath.normpath(posixpath.join(here, target))
    if path.startswith("..") or not (ROOT / path).exists():
        return None
    return path if not path.startswith("docs/") or uri.startswith("repository/") else None


def site_uri(path: str) -> str:
    """Where in the site a file of the repository is."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"repository/{path}/README.md"
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def as_page(path: str) -> str:
    """Markdown of a file of the repository: itself, its text as a block of code, or a folder's list of files."""
    place = ROOT / path
    if place.is_dir():
        readme = place / "README.md"
        return readme.read_text(encoding="utf-8") if readme.exists() else listing(place, path)
    text = place.read_text(encoding="utf-8")
    if place.suffix == ".md":
        return text
    return f"# {place.name}\n\n`{path}`\n\n````{LANGUAGES.get(place.suffix, '')}\n{text}````\n"


def listing(place: Path, path: str) -> str:
    """A page that links to the files of a folder."""
    names = sorted(file.name for file in place.iterdir() if file.is_file())
    return f"# {path}\n\n" + "".join(f"- [`{name}`]({name})\n" for name in names)
