"""The benchmarks run and report what they claim; how fast things are is not tested."""

import copy
import json
import math
import statistics
from typing import Any

import pytest
import torch
import transformers

import genarm_hf
from genarm_hf.benchmarks import scaling, shared, speculative, train
from genarm_hf.benchmarks.calls import greedy, lora_reward_model
from genarm_hf.benchmarks.decode import bench_decode, cfg_second_model, naive_second_model
from genarm_hf.benchmarks.preferences import bench_preferences, small_language_model
from genarm_hf.benchmarks.scaling import Context, bench_scaling, expected_bytes
from genarm_hf.benchmarks.shapes import SHAPES, Shape, parameters
from genarm_hf.benchmarks.shared import bench_shared, mixed_batch, mixed_rows
from genarm_hf.benchmarks.speculative import POLICIES, bench_speculative, with_layers
from genarm_hf.benchmarks.timing import alternate, ratio
from genarm_hf.benchmarks.train import build, hh_like_pairs

from ..conftest import VOCAB, prompts, tiny
from ..decoding.test_speculative import count_forwards
from ..training.toys import toy_pairs, word_tokenizer


@pytest.fixture
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> str:
    """A shape that takes no time."""
    monkeypatch.setitem(SHAPES, "tiny", Shape(32, 2, 4, 48, 64))
    return "tiny"


def test_rounds_go_to_and_fro_and_warm_up_is_not_counted() -> None:
    order: list[str] = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warmup=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [len(seconds) for seconds in times.values()] == [2, 2]


def test_ratio_is_of_neighbours() -> None:
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0])["median"] == 3.0


def test_shapes_are_of_the_size_they_are_named_after() -> None:
    assert 0.8e6 < parameters(SHAPES["1M"].build()) < 1.2e6
    assert 14e6 < parameters(SHAPES["15M"].build()) < 16e6


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_decode_reports_a_fraction_of_the_physical_sum(compiled: bool, tiny_shape: str) -> None:
    (row,) = bench_decode([(tiny_shape, 2, 4, 0.5)], repeats=2, compiled=compiled)
    assert row["tokens_per_second"].keys() == {"base", "arm", "guided", "CFG processor", "naive"}
    assert 0 < row["of_physical_sum"]["median"] < 5 and row["of_base"]["guided"]["median"] > 0
    json.dumps(row)


def test_processors_beside_it_choose_the_same_greedy_tokens() -> None:
    """Or their times would say nothing; transformers' own is the guided policy at another temperature."""
    base, arm, prompt = tiny(), tiny(seed=1), prompts(2, 6)
    settings = greedy(prompt["input_ids"], 8)
    expected = base.generate(prompt["input_ids"], reward_models=[arm], alpha=0.7, **settings)
    for processor in (cfg_second_model(arm, prompt["input_ids"], 0.7), naive_second_model(arm, 0.7)):
        assert torch.equal(base.generate(prompt["input_ids"], logits_processor=[processor], **settings), expected)


def test_shared_compares_one_pass_with_separate_ones_and_others(tiny_shape: str) -> None:
    pytest.importorskip("peft")
    (row,) = bench_shared([(tiny_shape, 1, 2)], new_tokens=4, prompt_length=4, prompts=[3, 5], repeats=2)
    names = {"one pass", "separate", "PEFT adapter_names", "rows of all streams", "without genarm_hf"}
    assert row["step_of_base"].keys() == row["call_of_base"].keys() == names
    assert row["prompt_of_base"].keys() == {"3", "5"} and row["prompt_of_base"]["3"]["one pass"]["median"] > 0
    assert all(value["median"] > 0 for value in row["step_of_base"].values())
    json.dumps(row)


def test_a_mixed_batch_of_peft_chooses_the_same_tokens() -> None:
    pytest.importorskip("peft")
    base, ids = tiny(), prompts(2, 6)["input_ids"]
    arms = [lora_reward_model(base, 1, rank=4), lora_reward_model(base, 2, rank=3)]
    settings = greedy(ids, 8)
    expected = base.generate(ids, reward_models=arms, alpha=1.0, **settings)
    mixed = mixed_batch(base, arms)(**settings | mixed_rows(ids, 2))
    assert torch.equal(mixed, expected.repeat(3, 1))
    assert not torch.equal(base.generate(ids, **settings), expected)


def test_genarm_is_there_again_after_a_call_without_it() -> None:
    installed = transformers.GenerationMixin.generate
    seen: list[Any] = []

    class Base:
        def generate(self, **settings: Any) -> None:
            seen.append(transformers.GenerationMixin.generate)

    shared._uninstalled(Base())()
    assert seen[0] is not installed and transformers.GenerationMixin.generate is not seen[0]
    base, ids = tiny(), prompts(1, 4)["input_ids"]
    base.generate(ids, reward_models=[tiny(seed=1)], alpha=1.0, **greedy(ids, 2))


# ---------------------------------------------------------------------- scaling


def test_scaling_has_a_row_for_every_place(tiny_shape: str) -> None:
    pytest.importorskip("peft")
    axes = ["length", "reward models", "batch"]
    rows = list(bench_scaling([(tiny_shape,)], axes, lengths=(20, 40), counts=(1, 3), batches=(1, 4), repeats=2))
    assert [(row["axis"], row["at"]) for row in rows] == [
        (a, n) for a, ns in zip(axes, ((20, 40), (1, 3), (1, 4)), strict=True) for n in ns
    ]
    assert {tuple(row["of_base"]) for row in rows} == {("one pass", "separate", "own weights")}
    assert all(ratio["median"] > 0 for row in rows for ratio in row["of_base"].values())
    json.dumps(rows)


@pytest.mark.parametrize("guided", [False, True])
def test_a_context_stays_as_long_as_it_is(guided: bool) -> None:
    """Every round decodes the same tokens behind the same text, which is read once."""
    base, arm, text = tiny(), tiny(seed=1), torch.randint(3, VOCAB, (2, 30))
    model = genarm_hf.guide(base, arm, 0.7) if guided else base
    fed = count_forwards(base)[0]
    context = Context(model, text[:, :0], steps=4)
    context.read(text[:, :12])
    assert fed == [11] and context.cache.get_seq_length() == 11
    context()
    context()
    assert fed == [11] + [1] * 8 and context.cache.get_seq_length() == 11 and len(context.clock.steps) == 2
    context.read(text)
    assert fed[-1] == 18 and context.cache.get_seq_length() == 29
    output = model.generate(text, past_key_values=context.cache, **greedy(text, 4))
    assert torch.equal(output, model.generate(text, **greedy(text, 4)))


def test_expected_bytes_are_those_of_the_tensors() -> None:
    shape, dtype = SHAPES["1M"], torch.bfloat16
    base = shape.build(dtype=dtype)
    arm = lora_reward_model(base, 1)
    adapters = [p for name, p in arm.named_parameters() if "lora_" in name]
    output = base.generate(torch.full((2, 5), 4), **greedy(torch.full((2, 5), 4), 8), return_dict_in_generate=True)
    cache = [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]

    def size(tensors: Any) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    expected = expected_bytes(shape, "one pass", 3, 2, 5, dtype)
    assert expected == {
        "base": size(base.parameters()), "reward_models": 3 * size(adapters), "caches": 4 * size(cache)
    }  # fmt: skip
    assert expected_bytes(shape, "own weights", 2, 2, 5, dtype)["reward_models"] == 2 * expected["base"]
    assert expected_bytes(shape, "none", 0, 2, 5, dtype)["reward_models"] == 0


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "HELD", [("none", 0), ("one pass", 2)])
    rows = list(bench_scaling([("1M",)], ["memory"]))
    assert [(row["at"], row["reward_models"]) for row in rows] == [("none", 0), ("one pass", 2)]
    assert all(1 < row["peak_of_expected"] < 3 for row in rows)
    json.dumps(rows)


# ---------------------------------------------------------------------- speculation


def test_a_deepened_model_has_the_same_distribution() -> None:
    base, ids = tiny("llama"), torch.randint(3, 48, (2, 9))
    deep = with_layers(base, 5)
    assert len(deep.model.layers) == 5 and len(base.model.layers) == 2
    assert torch.equal(deep(ids).logits, base(ids).logits)
    assert torch.equal(with_layers(deep, 2)(ids).logits, base(ids).logits)
    assert not torch.equal(with_layers(base, 1)(ids).logits, base(ids).logits)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward model in no time: the playground's base, which agrees with itself."""
    monkeypatch.setattr(speculative, "trained_reward_model", lambda base, *_: copy.deepcopy(base))


@pytest.mark.slow
def test_speculative_trains_a_reward_model() -> None:
    pytest.importorskip("peft")
    pytest.importorskip("datasets")
    (row,) = bench_speculative([("reward model", False, 6)], repeats=1, prompts=1, new_tokens=12, pairs=8)
    assert row["tokens_per_base_forward"] > 1


@pytest.mark.slow
def test_speculative_compares_drafts_with_the_unguided_base(untrained: None) -> None:
    cases = [("reward model", False, 5), ("small base", True, 5), ("prompt lookup", False, 5)]
    rows = list(bench_speculative(cases, repeats=2, prompts=1, new_tokens=24))
    assert [row["draft"] for row in rows] == ["reward model", "small base", "prompt lookup"]
    for row in rows:
        assert row["speculative_of_base"]["median"] > 0 and row["guided_of_base"]["median"] > 0
        assert row["tokens_per_base_forward"] > 1 and 0 < row["acceptance"] <= 1 and row["policy"] == "default"
    # a base forward gives one token, and each draft that is accepted another one
    assert rows[0]["reward_forwards_per_token"] >= 1
    assert rows[2]["reward_forwards_per_token"] * rows[2]["tokens_per_base_forward"] == pytest.approx(1)
    assert rows[2]["base_of_draft"] is None
    json.dumps(rows)


def test_policies_are_what_drafts_go_by(untrained: None) -> None:
    policies = {"3": POLICIES["5 tokens"] | {"num_assistant_tokens": 3}, "20": POLICIES["20 tokens"]}
    rows = list(
        bench_speculative(
            [("reward model", False, 5)], repeats=1, alphas=(0.5, 2.0), policies=policies, prompts=1, new_tokens=24
        )
    )
    assert [(row["alpha"], row["policy"]) for row in rows] == [(0.5, "3"), (0.5, "20"), (2.0, "3"), (2.0, "20")]
    assert rows[0]["drafted_per_round"] <= 3 < rows[1]["drafted_per_round"]


# ---------------------------------------------------------------------- the command


def test_the_command_prints_a_table_and_writes_json(tmp_path: Any, capsys: Any, tiny_shape: str) -> None:
    from genarm_hf.cli import main

    path = tmp_path / "decode.json"
    assert main(["bench", "--shapes", tiny_shape, "--repeats", "1", "--output", str(path), "decode"]) == 0
    assert "of physical sum" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["environment"]["threads"] == 1 and len(report["rows"]) == 1


def test_scaling_from_the_command_line(tmp_path: Any, capsys: Any, tiny_shape: str) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("matplotlib")
    from genarm_hf.cli import main

    path, figure = tmp_path / "scaling.json", tmp_path / "scaling.svg"
    options = ["--shapes", tiny_shape, "--repeats", "1", "--axes", "length", "--lengths", "16,8"]
    assert main(["bench", *options, "--output", str(path), "--figure", str(figure), "scaling"]) == 0
    assert "own weights / base" in capsys.readouterr().out and "<svg" in figure.read_text()
    assert [row["at"] for row in json.loads(path.read_text())["rows"]] == [8, 16]


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
        ["--compile", "speculative"],
        ["--model", "x", "decode"],
        ["--learning-rate", "0.1", "train"],
        ["--device", "abacus", "decode"],
        ["--lengths", "64", "decode"],
        ["--lengths", "64,x", "scaling"],
        ["--lengths", "0", "scaling"],
        ["--axes", "depth", "scaling"],
        ["--policies", "scaling"],
        ["--figure", "x.png", "train"],
        ["--figure", "x.txt", "decode"],
        ["--figure", "no/such/folder/x.png", "decode"],
        ["--output", "no/such/folder/x.json", "decode"],
    ],
)
def test_bad_input_is_one_sentence(wrong: list[str], capsys: Any) -> None:
    from genarm_hf.cli import main

    assert main(["bench", *wrong]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("genarm-hf: ") and "\n" not in error and "Traceback" not in error


def test_no_figure_without_matplotlib(tmp_path: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from genarm_hf.cli import files, main

    monkeypatch.setattr(files, "find_spec", lambda name: None)
    assert main(["bench", "--figure", str(tmp_path / "x.png"), "decode"]) == 2
    assert "pip install 'genarm-hf[plot]'" in capsys.readouterr().err


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_other_shapes_than_the_usual_ones_can_be_asked_for(tmp_path: Any, tiny_shape: str) -> None:
    """For a GPU, say; here a small one that the suite leaves out by itself."""
    pytest.importorskip("peft")
    from genarm_hf.cli import main

    path = tmp_path / "shared.json"
    assert main(["bench", "--shapes", tiny_shape, "--repeats", "1", "--output", str(path), "shared"]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["shape"], row["batch"], row["reward_models"]) == (tiny_shape, 1, 1)


@pytest.mark.slow
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


@pytest.mark.slow
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
