"""The page of results: what is on disk, and nothing else."""

import gzip
import json

import pytest

from genarm_hf.reproduce.figures import Panel, draw_panels
from genarm_hf.reproduce.page import interval, section, tables, write_page

INTERVAL = {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 4}
FOUND = {
    "claim": "credit",
    "number": 7,
    "title": "Credit",
    "paper": "It is known.",
    "answer": "it is known here",
    "findings": ["So it is.", "Or not."],
    "command": "genarm-hf reproduce credit",
    "lab": {"lab": "full"},
    "environment": {"device": "a laptop", "torch": "2.13"},
    "samples": {"samples.jsonl": 12},
    "rows": [
        {"table": "One", "where": {"alpha": 0.5, "arm": "a|b"}, "values": {"win": INTERVAL}},
        {"table": "One", "where": {"alpha": 2.0}, "values": {"win": INTERVAL | {"count": 3}, "kl": INTERVAL}},
        {"table": "Two", "where": {"seed": 1}, "values": {}},
    ],
}


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "results" / "credit"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps(FOUND))
    return tmp_path / "results"


def test_section():
    text = section(FOUND, {"figure.png": "results/credit/figure.png"})
    for line in (
        "## 7. Credit",
        "- Or not.",
        "![Credit](results/credit/figure.png)",
        "**One**",
        "| alpha | arm | win | kl | samples |",
        r"| 0.5 | a\|b | 0.500 (0.250 to 0.750) |  | 4 |",
        "| 2 |  | 0.500 (0.250 to 0.750) | 0.500 (0.250 to 0.750) | 3/4 |",
    ):
        assert line in text.splitlines()
    assert "`samples.jsonl` (12 lines)" in text and "device a laptop" in text
    assert "![" not in section(FOUND, {})


def test_page_and_what_it_rests_on(output, tmp_path):
    assert write_page(output, tmp_path / "docs" / "results.md") == ["credit"]
    assert "![" not in (tmp_path / "docs" / "results.md").read_text()
    (output / "credit" / "figure.png").write_bytes(b"drawn")
    (output / "credit" / "samples.jsonl").write_text('{"seed": 0}\n')
    write_page(output, tmp_path / "docs" / "results.md", how_to="elsewhere.md")
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| 7. Credit | it is known here |" in page
    assert "(results/credit/figure.png)" in page and "(elsewhere.md)" in page
    assert "[`samples.jsonl`](results/credit/samples.jsonl.gz) (12 lines)" in page
    beside = tmp_path / "docs" / "results" / "credit"
    assert (beside / "figure.png").read_bytes() == b"drawn"
    assert gzip.decompress((beside / "samples.jsonl.gz").read_bytes()) == b'{"seed": 0}\n'
    assert json.loads((beside / "table.json").read_text()) == FOUND


def test_nothing_to_write(tmp_path):
    with pytest.raises(ValueError, match=r"no table\.json of a claim; run `genarm-hf reproduce` first"):
        write_page(tmp_path, tmp_path / "page.md")


def test_rows_without_a_title_are_one_table():
    ((title, header, cells),) = tables([{"where": {"a": 1}, "values": {"x": INTERVAL}}] * 2)
    assert title == "" and header == ["a", "x", "samples"] and len(cells) == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"mean": 0.0, "low": 0.0, "high": 0.0}, "0.000 (0.000 to 0.000)"),
        ({"mean": -12.34, "low": -13.0, "high": -11.0}, "-12.3 (-13.0 to -11.0)"),
        (None, ""),
    ],
)
def test_intervals(value, shown):
    assert interval(value) == shown


def test_figures_have_lines_or_bars(tmp_path):
    lines = Panel("lines", "x", "y", "log", lines={"a": [(1, INTERVAL), (2, INTERVAL)], "b": [(1, INTERVAL)]})
    bars = Panel("bars", "x", "y", lines={"a": [("one", INTERVAL)], "b": [("one", INTERVAL)]})
    for panel in (lines, bars):
        draw_panels([panel, panel], tmp_path / f"{panel.title}.svg")
        assert panel.title in (tmp_path / f"{panel.title}.svg").read_text()
