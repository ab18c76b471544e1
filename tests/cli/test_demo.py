"""`genarm-hf demo` end to end, small; the full claim (reward rises with alpha) is the slow test."""

import json
import re
import sys

import pytest
from transformers import AutoModel

from genarm_hf import cli, playground
from genarm_hf.cli import demo, experiment, main, report

TINY = ["--pairs", "24", "--prompts", "6", "--alphas", "0,1", "--samples", "1"]


@pytest.fixture(scope="module")
def tiny_demo(tmp_path_factory):
    """Output folder and printed text of a demo of a few seconds."""
    import contextlib
    import io

    output, out = tmp_path_factory.mktemp("demo") / "results", io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert main(["demo", "--output", str(output), *TINY]) == 0
    return output, out.getvalue()


def test_everything_is_written_and_nothing_else(tiny_demo):
    pytest.importorskip("matplotlib")
    output, _ = tiny_demo
    assert sorted(path.name for path in output.iterdir()) == ["arm-harmless", "results.json", "rewards.png"]
    assert (output / "rewards.png").read_bytes().startswith(b"\x89PNG")


def test_results_hold_what_the_table_shows(tiny_demo):
    output, text = tiny_demo
    found = json.loads((output / "results.json").read_text())
    assert [row["alpha"] for row in found["guidance"]] == [0.0, 1.0]
    for row in found["guidance"]:
        assert re.search(rf"^ +{row['alpha']:g} +{row['oracle_reward']['mean']:.2f} \+- ", text, re.MULTILINE)
        assert row["tokens_per_second"] > 0
    assert found["guidance"][0]["kl"]["mean"] == pytest.approx(0.0, abs=1e-3)
    assert len(found["replies"]) == 6


def test_oracle_rewards_are_those_of_the_replies(tiny_demo):
    output, _ = tiny_demo
    found = json.loads((output / "results.json").read_text())
    for row in found["replies"]:
        for reply in row["replies"]:
            assert reply["oracle_reward"] == playground.score("harmless", row["prompt"], reply["reply"])


def test_reward_model_loads_through_auto_model(tiny_demo):
    output, _ = tiny_demo
    arm = AutoModel.from_pretrained(output / "arm-harmless")
    assert (arm.config.model_type, arm.config.objective, arm.config.beta) == ("genarm", "harmless", 0.1)


def test_the_story_names_its_steps_and_what_to_type_next(tiny_demo):
    output, text = tiny_demo
    assert [line[:3] for line in text.splitlines() if re.match(r"\d/5 ", line)] == [f"{i}/5" for i in range(1, 6)]
    assert f"--reward-model {output / 'arm-harmless'}" in text
    assert "unbiased Monte Carlo" in " ".join(text.split())  # lines are as wide as the terminal
    assert "alpha 1 (reward " in text


def test_the_suggested_python_runs(tiny_demo):
    _, text = tiny_demo
    lines = text.split("In Python:\n\n")[1].splitlines()
    assert len(lines) == 4
    exec("\n".join(line.strip() for line in lines).replace("alpha=1", "alpha=1, max_new_tokens=4"), {})


def test_the_suggested_command_runs(tiny_demo, capsys):
    import shlex

    _, text = tiny_demo
    line = next(line for line in text.splitlines() if line.startswith("  genarm-hf generate"))
    assert main([*shlex.split(line)[1:], "--max-new-tokens", "4"]) == 0
    assert "guided (alpha 1)" in capsys.readouterr().out


def test_what_is_not_on_the_path_is_activated_first(tiny_demo, tmp_path, monkeypatch):
    """After `make demo` the commands are in .venv, where no shell looks."""
    output, _ = tiny_demo
    found = json.loads((output / "results.json").read_text())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", "")
    assert "\n\n  . .venv/bin/activate\n  genarm-hf generate" in report.next_steps(found)
    monkeypatch.setattr(report, "which", lambda name: f"/somewhere/{name}")
    assert "activate" not in report.next_steps(found)


def test_interrupted_training_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("genarm_hf.training.ARMTrainer.save_model", interrupt, raising=False)
    assert main(["demo", "--output", str(tmp_path / "out"), "--pairs", "4"]) == 130
    assert list((tmp_path / "out").iterdir()) == []
    assert "Interrupted" in capsys.readouterr().err


def test_output_that_is_in_the_way(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    assert "`--output` must be a folder" in capsys.readouterr().err
    (tmp_path / "arm-brief").mkdir()
    assert main(["demo", "--objective", "brief", "--output", str(tmp_path)]) == 2
    assert "exists and is no reward model" in capsys.readouterr().err


def test_no_matplotlib_no_figure(tiny_demo, tmp_path, capsys, monkeypatch):
    output, _ = tiny_demo
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report.write(tmp_path, json.loads((output / "results.json").read_text()))
    assert "pip install 'genarm-hf[plot]'" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_what_counts_as_generated():
    import torch

    ids = torch.tensor([[5, 2, 0, 0], [5, 6, 7, 8], [2, 2, 5, 0]])
    assert experiment.generated(ids, eos=2).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_training_repeats_with_its_seed(tmp_path):
    from transformers import TrainerCallback

    base, tokenizer = playground.load_base(), playground.load_tokenizer()
    pairs = playground.preference_pairs("brief", 8, 0, base)
    weights = []
    for name in ("one", "two"):
        experiment.train(base, tokenizer, pairs, experiment.Training("brief", 7), tmp_path / name, TrainerCallback())
        weights.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_reward_rises_with_alpha_on_held_out_prompts(tmp_path):
    options = demo.DemoOptions(output=str(tmp_path), pairs=400, prompts=80, alphas="0,0.5,1,2")
    demo.run(options)
    found = json.loads((tmp_path / "results.json").read_text())
    rows = found["guidance"]
    rewards = [row["oracle_reward"]["mean"] for row in rows]
    assert rewards[0] < rewards[1] < rewards[2]
    assert rewards[3] > rewards[1]  # between 1 and 2 it levels off
    assert rows[-1]["oracle_reward"]["low"] > rows[0]["oracle_reward"]["high"]
    # an untrained reward model sharpens the base, which is not what raises the reward
    assert rows[-1]["oracle_reward"]["low"] > found["control"]["oracle_reward"]["high"]
    kl = [row["kl"]["mean"] for row in rows]
    assert kl == sorted(kl)


def test_commands_are_modules_with_a_parser_and_a_run():
    from importlib import import_module

    for name in cli.COMMANDS:
        module = import_module(f"genarm_hf.cli.{name}")
        assert callable(module.parser) and callable(module.run)
