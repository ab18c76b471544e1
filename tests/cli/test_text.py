"""Text fits the terminal, whatever its width."""

import pytest

from genarm_hf.cli.text import paragraph, side_by_side, table, terminal_width

TEXT = "the quick brown fox jumps over the lazy dog again and again"


def test_terminal_width_follows_the_environment(monkeypatch):
    monkeypatch.setenv("COLUMNS", "61")
    assert terminal_width() == 61
    assert max(map(len, paragraph(TEXT * 3).splitlines())) <= 61


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_columns_keep_every_word_and_the_width(width, columns):
    titles = [f"title {i}" for i in range(columns)]
    shown = side_by_side(titles, [TEXT] * columns, width=width)
    assert max(map(len, shown.splitlines())) <= max(width, 24)
    assert shown.count("jumps") == columns
    assert all(title in shown for title in titles)


def test_lines_of_a_text_stay_lines():
    assert side_by_side(["t"], ["one\n\ntwo"], width=40).splitlines() == ["t", "one", "", "two"]


def test_table_without_rows():
    assert table(["a", "b"], []).splitlines() == ["a  b", "-  -"]
