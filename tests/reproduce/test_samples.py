"""Samples on disk: complete cells only, resumed; numbers that anybody can compute again."""

import json

import numpy as np
import pytest

from genarm_hf.evaluation.runner import read
from genarm_hf.reproduce.samples import collect, summarise

CELLS = [{"seed": seed, "alpha": 0.5} for seed in range(3)]


def make(cell):
    return [{"prompt": prompt, "reward": 10 * cell["seed"] + prompt} for prompt in range(2)]


def test_a_cell_is_made_once(tmp_path):
    made = []
    path = tmp_path / "new" / "samples.jsonl"
    first = collect(path, CELLS[:2], lambda cell: made.append(cell) or make(cell))
    again = collect(path, CELLS, lambda cell: made.append(cell) or make(cell))
    assert made == CELLS and again[:4] == first and read(path) == again
    assert [sample["reward"] for sample in again] == [0, 1, 10, 11, 20, 21]


@pytest.mark.parametrize("cut", [1, 40, 90, 150, 200])
def test_a_killed_run_goes_on(tmp_path, cut):
    path = tmp_path / "samples.jsonl"
    whole = collect(path, CELLS, make)
    text = path.read_text()
    path.write_text(text[:-cut])
    assert collect(path, CELLS, make) == whole
    assert path.read_text() == text


def test_an_error_keeps_what_was_complete(tmp_path):
    def fail(cell):
        if cell["seed"] == 1:
            raise KeyboardInterrupt
        return make(cell)

    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "samples.jsonl", CELLS, fail)
    assert [sample["seed"] for sample in read(tmp_path / "samples.jsonl")] == [0, 0]


def test_samples_of_other_settings_are_removed(tmp_path):
    path = tmp_path / "samples.jsonl"
    collect(path, [*CELLS, {"seed": 0, "alpha": 2.0}], make)
    assert collect(path, CELLS[:1], make) == read(path)
    assert {sample["alpha"] for sample in read(path)} == {0.5}


def test_rows_are_means_of_lines(tmp_path):
    samples = collect(tmp_path / "samples.jsonl", CELLS, make)
    (row,) = summarise(samples, ["alpha"], ["reward", "missing"], table="All")
    assert row["table"] == "All" and row["where"] == {"alpha": 0.5} and set(row["values"]) == {"reward"}
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert row["values"]["reward"]["mean"] == np.mean([line["reward"] for line in lines])
    assert row["values"]["reward"]["count"] == 6
    assert summarise(samples, ["seed"], ["reward"])[1]["values"]["reward"]["mean"] == 10.5


def test_samples_of_a_row_must_differ_in_their_units():
    with pytest.raises(ValueError, match="must tell the samples of a row apart"):
        summarise([{"seed": 0, "prompt": 1, "x": 1.0}] * 2, [], ["x"])


def test_seeds_and_prompts_are_drawn_anew():
    samples = [{"seed": seed, "prompt": prompt, "x": seed} for seed in range(2) for prompt in range(50)]
    (row,) = summarise(samples, [], ["x"])
    assert row["values"]["x"] == {"mean": 0.5, "low": 0, "high": 1, "count": 100}  # prompts do not make up for seeds
    (row,) = summarise([{**one, "x": one["prompt"] % 2} for one in samples], [], ["x"])
    assert 0.3 < row["values"]["x"]["low"] < 0.42 and 0.58 < row["values"]["x"]["high"] < 0.7
    (row,) = summarise(samples[:10], [], ["x"], units=["prompt"])
    assert row["values"]["x"]["count"] == 10
