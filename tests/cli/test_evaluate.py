"""`genarm-hf evaluate` on tiny models: the table says what `evaluate_preferences` finds."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel
from genarm_hf.cli import evaluate, loading, main
from genarm_hf.evaluation.preferences import evaluate_preferences

from .conftest import WORDS, build_tokenizer

pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    most = {"prompt": 10, "chosen": 8, "rejected": 8}
    draw = {name: lambda n=n: " ".join(rng.choice(WORDS[3:], size=rng.integers(1, n))) for name, n in most.items()}
    return [{name: make() for name, make in draw.items()} for _ in range(24)]


@pytest.fixture(scope="module")
def data(pairs, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return path


@pytest.fixture
def command(data, capsys):
    """Runs `evaluate` on the pairs and gives what it prints."""

    def run(*argv, status: int = 0) -> str:
        assert main(["evaluate", "--data", str(data), "--device", "cpu", *map(str, argv)]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def cells(out: str, title: str) -> list[str]:
    """What stands in the row of a table, a cell each."""
    (line,) = (line for line in out.splitlines() if line.strip().startswith(title))
    return re.split(r"  +", line.strip())[1:]


def shown(accuracy) -> str:
    value, low, high = (100 * getattr(accuracy, name) for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}] of {accuracy.count}"


def test_models_stand_side_by_side(command, arm_dir, base_dir, lora_dir, pairs):
    out = command("--reward-model", arm_dir, "--reward-model", base_dir, "--reward-model", lora_dir, "--beta", "0.2")
    models = [AutoregressiveRewardModel.from_pretrained(name) for name in (arm_dir, base_dir, lora_dir)]
    found = [evaluate_preferences(model, pairs, build_tokenizer(), beta=0.2).summary for model in models]
    assert out.splitlines()[0].startswith("24 pairs of ")
    assert out.splitlines()[1].split() == [arm_dir.name, base_dir.name, lora_dir.name]
    assert cells(out, "accuracy") == [shown(one.accuracy) for one in found]
    assert cells(out, "chosen is longer") == [shown(one.by_length["longer"]) for one in found]
    assert cells(out, "shortest quarter") == [shown(one.by_mean_length[0].accuracy) for one in found]
    assert cells(out, "prefer the longer") == [shown(one.length_only["longer"]) for one in found]
    assert cells(out, "calibration error") == [f"{one.calibration.error:.3f}" for one in found]
    assert cells(out, "length correlation") == [f"{one.length_correlation:+.2f}" for one in found]
    assert cells(out, "margin, mean") == [f"{one.margins.mean:+.2f}" for one in found]


def test_implicit_rewards_beside_a_reward_model(command, arm_dir, base_dir, lora_dir, pairs, tmp_path):
    """The adapter's tokenizer is its base's, and its reference the base itself."""
    output = tmp_path / "deep" / "numbers.json"
    argv = ["--tuned-model", lora_dir, "--reference-model", base_dir, "--output", output]
    out = command("--reward-model", arm_dir, *argv)
    tuned = AutoregressiveRewardModel.from_pretrained(lora_dir)
    reference = AutoModelForCausalLM.from_pretrained(base_dir)
    found = evaluate_preferences(tuned, pairs, build_tokenizer(), reference=reference)
    assert out.splitlines()[1].split() == [arm_dir.name, lora_dir.name, "(implicit)"]
    assert cells(out, "accuracy")[1] == shown(found.summary.accuracy)
    assert cells(out, "beta") == ["-", "-"] and "pass --beta" in " ".join(out.split())
    report = json.loads(output.read_text())
    assert [one["model"] for one in report["models"]] == [str(arm_dir), str(lora_dir)]
    assert report["models"][1]["reference"] == str(base_dir) and report["max_pairs"] is None
    assert report["models"][1]["accuracy"] == vars(found.summary.accuracy)


def test_an_adapter_shares_its_references_weights(base_dir, lora_dir):
    reference = loading.load_judge("--reference-model", str(base_dir), "auto", "cpu").causal_lm
    tuned = loading.load_judge("--tuned-model", str(lora_dir), "auto", "cpu", reference, str(base_dir))
    mine = {parameter.data_ptr() for parameter in reference.parameters()}
    assert sum(parameter.data_ptr() in mine for parameter in tuned.parameters()) == len(mine)


def test_only_the_first_pairs(command, arm_dir, pairs):
    out = command("--reward-model", arm_dir, "--max-pairs", "5")
    found = evaluate_preferences(AutoregressiveRewardModel.from_pretrained(arm_dir), pairs[:5], build_tokenizer())
    assert cells(out, "accuracy") == [shown(found.summary.accuracy)] and cells(out, "pairs") == ["5"]


def test_the_split_to_judge_on(arm_dir, pairs, tmp_path, capsys, caplog):
    splits = tmp_path / "splits"
    splits.mkdir()
    for split, rows in (("train", pairs[:9]), ("validation", pairs[9:15])):
        (splits / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["evaluate", "--data", str(splits), "--device", "cpu", "--reward-model", str(arm_dir)]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("6 pairs of ")
    assert "read the split 'validation', of ['train', 'validation']" in caplog.text
    assert main([*argv, "--split", "train"]) == 0
    assert capsys.readouterr().out.startswith("9 pairs of ")


def test_bad_rows_can_be_left_out(arm_dir, pairs, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*pairs[:5], {**pairs[5], "chosen": ""}]))
    argv = ["evaluate", "--data", str(path), "--device", "cpu", "--reward-model", str(arm_dir)]
    assert main(argv) == 2 and "Row 5 of" in capsys.readouterr().err
    assert main([*argv, "--skip-bad-rows"]) == 0
    assert capsys.readouterr().out.startswith("5 pairs of ")


def test_pairs_that_do_not_fit_are_counted(command, arm_dir):
    out = command("--reward-model", arm_dir, "--max-length", "7")
    assert int(cells(out, "left out (too long)")[0]) + int(cells(out, "pairs")[0]) == 24
    assert "left out" not in command("--reward-model", arm_dir)


def test_the_figure(command, arm_dir, tmp_path):
    pytest.importorskip("matplotlib")
    out = command("--reward-model", arm_dir, "--figure", tmp_path / "calibration.png", "--beta", "0.1")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG") and "calibration.png" in out
    out = command("--reward-model", arm_dir, "--figure", tmp_path / "none.png")
    assert "No figure was drawn" in out and not (tmp_path / "none.png").exists()


def test_models_of_one_name_get_different_titles():
    judges = [
        evaluate._Judge("--reward-model", "a/model"),
        evaluate._Judge("--reward-model", "b/model"),
        evaluate._Judge("--tuned-model", "a/model", "base"),
        evaluate._Judge("--reward-model", "a/model"),
    ]
    assert evaluate._names(judges) == ["a/model #1", "b/model", "model (implicit)", "a/model #4"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "`--reward-model` is missing"),
        (["--reward-model", "ARM", "--reference-model", "x"], "`--reference-model` must be given once"),
        (["--tuned-model", "ARM"], "got 0 for 1 tuned models"),
        (["--reward-model", "ARM", "--max-pairs", "0"], "`--max-pairs` must be at least 1, got 0"),
        (["--reward-model", "ARM", "--max-length", "1"], "`--max-length` must be at least 2"),
        (["--reward-model", "ARM", "--max-tokens-per-batch", "0"], "`--max-tokens-per-batch` must be at least 1"),
        (["--reward-model", "ARM", "--beta", "-1"], "`--beta` must be a positive number"),
        (["--reward-model", "ARM", "--beta", "nan"], "`--beta` must be a positive number"),
        (["--reward-model", "ARM", "--figure", "x.txt"], "`--figure` must end in .png, .svg or .pdf, got 'x.txt'"),
        (["--reward-model", "ARM", "--output", "."], "`--output` must be a file, and '.' is a folder"),
        (["--reward-model", "ARM", "--reward-model", "/no/such"], "`--reward-model`: there is no folder '/no/such'"),
        (["--tuned-model", "ARM", "--reference-model", "/no"], "`--reference-model`: there is no folder '/no'"),
        (["--reward-model", "ARM", "--device", "abacus"], "`--device` must name a device of this machine"),
    ],
)
def test_bad_input_is_one_sentence_before_any_model_is_loaded(command, arm_dir, monkeypatch, argv, said):
    monkeypatch.setattr(AutoregressiveRewardModel, "from_pretrained", None)
    err = command(*[arm_dir if part == "ARM" else part for part in argv], status=2)
    assert said in err and err.startswith("genarm-hf: ") and err.strip().count("\n") == 0


def test_bad_data_is_told_before_any_model_is_loaded(arm_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(AutoregressiveRewardModel, "from_pretrained", None)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "", "rejected": "b"}\n')
    for name, said in (("bad.jsonl", "or leave such rows out: `--skip-bad-rows`"), ("missing.jsonl", "`--data` '")):
        assert main(["evaluate", "--data", str(tmp_path / name), "--reward-model", str(arm_dir)]) == 2
        err = capsys.readouterr().err.strip().splitlines()[-1]  # behind the bar of reading
        assert said in err and err.startswith("genarm-hf: ")


def test_a_figure_without_matplotlib_names_the_extra(command, arm_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    err = command("--reward-model", arm_dir, "--figure", "x.png", status=2)
    assert "pip install 'genarm-hf[plot]'" in err


def test_the_models_own_tokenizer_is_needed(command, arm_dir, tmp_path):
    bare = shutil.copytree(arm_dir, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    assert "`--reward-model`" in command("--reward-model", bare, status=2)
