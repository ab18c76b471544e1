"""Samples on disk: complete cells only, resumed; numbers that anybody can compute again."""

import json

import numpy as np
import pytest

from genarm_hf.reproduce.samples import bootstrap, collect, read, summarise

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


def test_bootstrap_of_seeds_and_prompts():
    by_seed = bootstrap(np.repeat([[0.0], [1.0]], 50, axis=1))
    assert (by_seed.low, by_seed.high) == (0, 1)  # fifty prompts do not make up for two seeds
    by_prompt = bootstrap(np.repeat([[0.0, 1.0] * 25], 5, axis=0))
    assert 0.3 < by_prompt.low < 0.42 and 0.58 < by_prompt.high < 0.7
    assert bootstrap([[1.0, np.nan, 3.0]]).mean == 2 and bootstrap([[1.0, np.nan, 3.0]]).count == 2
    constant = bootstrap([[2.0] * 5] * 2)
    assert (constant.low, constant.mean, constant.high) == (2, 2, 2)


def test_interval_has_the_width_of_the_normal_one():
    values = np.random.default_rng(1).normal(size=(1, 400))
    found = bootstrap(values)
    assert found.half_width == pytest.approx(1.96 * values.std() / 20, rel=0.1)
