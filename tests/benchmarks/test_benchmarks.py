"""The benchmarks run and report what they claim; how fast things are is not tested."""

import json
from typing import Any

import pytest

from genarm_hf.benchmarks.decode import bench_decode
from genarm_hf.benchmarks.shapes import SHAPES, parameters
from genarm_hf.benchmarks.shared import bench_shared
from genarm_hf.benchmarks.timing import alternate, ratio


def test_runs_alternate_and_warm_up_is_not_counted() -> None:
    order: list[str] = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert [len(seconds) for seconds in times.values()] == [2, 2]


def test_ratio_is_of_neighbours() -> None:
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0])["median"] == 3.0


def test_shapes_are_of_the_size_they_are_named_after() -> None:
    assert 0.8e6 < parameters(SHAPES["1M"].build()) < 1.2e6
    assert 14e6 < parameters(SHAPES["15M"].build()) < 16e6


def test_decode_reports_a_fraction_of_the_physical_sum() -> None:
    (row,) = bench_decode([("1M", 2, 4, 0.5)], repeats=2)
    assert row["tokens_per_second"].keys() == {"base", "arm", "guided", "naive"}
    assert 0 < row["of_physical_sum"]["median"] < 5


def test_shared_compares_one_pass_with_separate_ones() -> None:
    (row,) = bench_shared([("1M", 1, 2)], new_tokens=4, prompt_length=4, repeats=2)
    assert row["one_pass_of_base"]["median"] > 0 and row["separate_of_base"]["median"] > 0


def test_the_command_prints_a_table_and_writes_json(tmp_path: Any, capsys: Any) -> None:
    from genarm_hf.cli import main

    path = tmp_path / "decode.json"
    assert main(["bench", "--shapes", "1M", "--repeats", "1", "--output", str(path), "decode"]) == 0
    assert "of physical sum" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["environment"]["threads"] == 1 and len(report["rows"]) == 2


@pytest.mark.parametrize(
    "wrong", [["sing"], ["--dtype", "int3", "decode"], ["--repeats", "0", "decode"], ["--shapes", "9T", "decode"], []]
)
def test_bad_input_is_one_sentence(wrong: list[str], capsys: Any) -> None:
    from genarm_hf.cli import main

    assert main(["bench", *wrong]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("genarm-hf: ") and "\n" not in error and "Traceback" not in error
