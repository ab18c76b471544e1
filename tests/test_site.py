"""What makes a site of pages that are written for GitHub (docs/.site/hooks.py). `make docs` builds all of it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    for package in ("mkdocs", "latex2mathml"):
        pytest.importorskip(package, reason="needs genarm-hf[docs]")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / ".site" / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_become_mathml(hooks):
    assert hooks.formula(r"\pi_r") == hooks.formula(r"\pi_r", "inline")
    assert "<msub>" in hooks.formula(r"\pi_r") and 'display="block"' in hooks.formula("x", "block")
    assert "|" not in hooks.formula(r"\log \pi(y|x)"), "it would end a cell of a table"


def test_code_stays_as_it_is(hooks):
    text = "a `b` [`c`](d)\n```python\na\n```\na\n"
    assert hooks.outside_code("a $`x`$ b $`y`$ `$`", str.upper).count("<math") == 2
    assert hooks.outside_code(text, lambda part: part.replace("a", "x").replace("b", "x")) == (
        "x `b` [`c`](d)\n```python\na\n```\nx\n"
    )


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("quickstart.md", "concepts/guidance.md#x", "concepts/guidance.md#x"),
        ("README.md", "../examples", "repository/examples/README.md"),
        ("how-to/train-at-scale.md", "../../examples/train.yaml", "../repository/examples/train.yaml.md"),
        ("repository/CHANGELOG.md", "docs/performance.md", "../performance.md"),
        ("repository/examples/README.md", "01_guide.py", "01_guide.py.md"),
        ("faq.md", "https://example.org/a", "https://example.org/a"),
        ("faq.md", "nowhere.md", "nowhere.md"),
    ],
)
def test_links_out_of_docs_lead_to_pages_made_for_them(hooks, page, link, leads_to):
    assert hooks.with_links(f"[t]({link})", page) == f"[t]({leads_to})"


def test_files_are_shown_and_folders_listed(hooks):
    assert hooks.as_page("examples/train.yaml").startswith("# train.yaml\n") and "````yaml" in hooks.as_page(
        "examples/train.yaml"
    )
    assert "[`hh-llama-7b.yaml`](hh-llama-7b.yaml)" in hooks.as_page("examples/recipes")
    assert hooks.linked("README.md", "[a](../examples) `[b](../LICENSE)` [c](faq.md)") == {"examples"}
