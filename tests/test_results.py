"""The page of results: its numbers are those of the samples beside it."""

import gzip
import json
import math
from functools import cache
from pathlib import Path

import pytest

from genarm_hf.reproduce.claims import CLAIMS
from genarm_hf.reproduce.page import interval

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
FOLDER = PAGE.with_suffix("")
IMPLIED = {"Alpha, of the default ARM": {"varied": "default"}}
"""Settings that the title of a table names instead of its rows."""


def table(claim):
    return json.loads((FOLDER / claim / "table.json").read_text())


@cache
def samples(claim):
    """Lines of all files of a claim."""
    files = sorted((FOLDER / claim).glob("*.jsonl.gz"))
    return {file.stem: [json.loads(line) for line in gzip.open(file, "rt")] for file in files}


def traced(claim):
    """Means of a table and of the lines with the settings of their row, for every number that is such a mean."""
    for row in table(claim)["rows"]:
        where = row["where"] | IMPLIED.get(row.get("table"), {})
        for field, value in row["values"].items():
            for lines in samples(claim).values():
                if not all(any(name in line for line in lines) for name in (field, *where)):
                    continue
                own = [line for line in lines if all(line.get(name) == one for name, one in where.items())]
                known = [line[field] for line in own if line.get(field) is not None]
                if len(known) == value["count"]:
                    yield value, sum(known) / len(known)


@pytest.mark.parametrize("claim", CLAIMS)
def test_numbers_are_means_of_the_samples(claim):
    found = table(claim)
    for name, count in found["samples"].items():
        assert len(samples(claim)[name]) == count
    pairs = list(traced(claim))
    assert len(pairs) >= 8
    for value, mean in pairs:
        assert math.isclose(value["mean"], mean, rel_tol=1e-6, abs_tol=1e-9)
        assert value["low"] <= value["mean"] <= value["high"]


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_page_shows_what_the_table_says(claim):
    page, found = PAGE.read_text(), table(claim)
    assert found["lab"]["lab"] == "full" and f"results/{claim}/figure.png" in page
    assert f"| {found['number']}. {found['title']} | {found['answer']} |" in page
    assert all(finding in page for finding in found["findings"])
    for row in found["rows"]:
        assert all(interval(value) in page for value in row["values"].values())
