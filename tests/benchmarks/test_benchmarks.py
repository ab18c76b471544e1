"""The benchmarks run and report what they claim; how fast things are is not tested."""

import json
import math
import statistics
from typing import Any

import pytest
import torch

from genarm_hf.benchmarks import train
from genarm_hf.benchmarks.decode import bench_decode
from genarm_hf.benchmarks.preferences import bench_preferences, small_language_model
from genarm_hf.benchmarks.shapes import SHAPES, Shape, parameters
from genarm_hf.benchmarks.shared import bench_shared
from genarm_hf.benchmarks.speculative import bench_speculative, with_layers
from genarm_hf.benchmarks.timing import alternate, ratio
from genarm_hf.benchmarks.train import build, hh_like_pairs

from ..conftest import tiny
from ..training.toys import toy_pairs, word_tokenizer


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


def test_a_deepened_model_has_the_same_distribution() -> None:
    base, ids = tiny("llama"), torch.randint(3, 48, (2, 9))
    deep = with_layers(base, 5)
    assert len(deep.model.layers) == 5 and len(base.model.layers) == 2
    assert torch.equal(deep(ids).logits, base(ids).logits)
    assert torch.equal(with_layers(deep, 2)(ids).logits, base(ids).logits)
    assert not torch.equal(with_layers(base, 1)(ids).logits, base(ids).logits)


def test_speculative_compares_drafts_with_the_unguided_base() -> None:
    pytest.importorskip("peft")
    pytest.importorskip("datasets")
    cases = [("reward model", False, 6), ("small base", True, 6)]
    rows = list(bench_speculative(cases, repeats=2, prompts=1, new_tokens=12, pairs=8))
    assert [row["draft"] for row in rows] == ["reward model", "small base"]
    for row in rows:
        assert row["speculative_of_base"]["median"] > 0 and row["guided_of_base"]["median"] > 0
        assert row["tokens_per_base_forward"] > 1 and 0 < row["acceptance"] <= 1
        # a base forward gives one token, and each draft that is accepted another one
        assert row["reward_forwards_per_token"] >= 1


def test_the_command_prints_a_table_and_writes_json(tmp_path: Any, capsys: Any) -> None:
    from genarm_hf.cli import main

    path = tmp_path / "decode.json"
    assert main(["bench", "--shapes", "1M", "--repeats", "1", "--output", str(path), "decode"]) == 0
    assert "of physical sum" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["environment"]["threads"] == 1 and len(report["rows"]) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ["sing"],
        ["--dtype", "int3", "decode"],
        ["--repeats", "0", "decode"],
        ["--shapes", "9T", "decode"],
        [],
        ["--folds", "1", "--data", "x", "--model", "y", "preferences"],
        ["--epochs", "0", "train"],
        ["--beta", "-1", "train"],
        ["--learning-rate", "nan", "train"],
    ],
)
def test_bad_input_is_one_sentence(wrong: list[str], capsys: Any) -> None:
    from genarm_hf.cli import main

    assert main(["bench", *wrong]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("genarm-hf: ") and "\n" not in error and "Traceback" not in error


# ---------------------------------------------------------------------- training


def test_pairs_have_the_lengths_of_hh() -> None:
    pairs = hh_like_pairs(4000, vocab=100)
    for name, (median, mean) in {"prompt_ids": (112, 145), "chosen_ids": (37, 54), "rejected_ids": (36, 52)}.items():
        sizes = [len(pair[name]) for pair in pairs]
        assert statistics.median(sizes) == pytest.approx(median, rel=0.1)
        assert statistics.mean(sizes) == pytest.approx(mean, rel=0.1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["plain loop", "TRL"])
def test_what_is_compared_computes_the_same_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL with reference log-probabilities of zero, the plain loop and ours: one loss, or their times say nothing."""
    pytest.importorskip("peft")
    if name == "TRL":
        pytest.importorskip("trl")
    monkeypatch.setitem(SHAPES, "tiny", Shape(32, 2, 4, 48, 64))
    pairs = hh_like_pairs(4, vocab=64)
    losses = [build(system, "tiny", 4, torch.float32, "cpu")(pairs) for system in ("ARMTrainer", name)]
    assert losses[0] != pytest.approx(0.693, abs=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_train_reports_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    rows = list(train.bench_train([("1M", 2)], pairs=2, repeats=2))
    assert [row["system"] for row in rows] == [
        "ARMTrainer",
        "ARMTrainer, grouped by length",
        "plain loop",
        "plain loop, grouped by length",
    ]
    assert all(row["pairs_per_second"] > 0 and row["of_trl"] is None for row in rows)
    assert rows[2]["of_plain"]["median"] == 1.0 and rows[0]["memory_mb"] >= 0


# ---------------------------------------------------------------------- what is learned


def test_other_shapes_than_the_usual_ones_can_be_asked_for(tmp_path: Any, capsys: Any) -> None:
    """For a GPU, say; here a small one that the suite leaves out by itself."""
    from genarm_hf.cli import main

    path = tmp_path / "shared.json"
    assert main(["bench", "--shapes", "1M", "--repeats", "1", "--output", str(path), "shared"]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["shape"], row["batch"], row["reward_models"]) == ("1M", 1, 1)


def test_cross_validation_holds_every_pair_out_once() -> None:
    """On the toy preference: a reward model learns it, words tell it, length does not."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("sklearn")
    data = datasets.Dataset.from_list(toy_pairs(60))
    training = {"learning_rate": 1e-2, "num_train_epochs": 8, "beta": 0.3, "per_device_train_batch_size": 8}
    rows = {
        row["system"]: row
        for row in bench_preferences(data, lambda: (tiny(), word_tokenizer()), folds=3, training=training)
    }
    accuracy = {name: row["accuracy"]["value"] for name, row in rows.items()}
    assert {row["accuracy"]["count"] for row in rows.values()} == {60}
    assert accuracy["reward model"] > max(accuracy["before training"], 0.8)
    assert accuracy["length alone"] == 0.5 and accuracy["bag of words"] > 0.95
    assert len(rows["reward model"]["accuracy_of_folds"]) == 3


def test_small_language_model_reads_its_texts() -> None:
    pytest.importorskip("datasets")
    texts = [f"the {animal} sat on the {thing} and was {mood}" for animal in ("cat", "dog") for thing in ("mat", "sofa")
             for mood in ("glad", "sad", "tired")] * 16  # fmt: skip
    model, tokenizer = small_language_model(texts, epochs=40)
    ids = tokenizer("the cat sat on the mat and was glad", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == tokenizer.bos_token_id
    assert model(ids, labels=ids).loss < 0.8 * math.log(len(tokenizer))


def test_preferences_needs_data_and_one_start(capsys: Any) -> None:
    from genarm_hf.cli import main

    for wrong in (["preferences"], ["--data", "x", "preferences"], ["--data", "x", "--model", "y", "--texts", "z"]):
        assert main(["bench", *wrong, *([] if "preferences" in wrong else ["preferences"])]) == 2
        assert "either `--texts` or `--model`" in capsys.readouterr().err
