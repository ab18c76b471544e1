"""`genarm-hf app`: what it opens, and what it refuses before any model is loaded."""

import sys

import pytest

from genarm_hf.app import page
from genarm_hf.cli import main


@pytest.fixture
def served(monkeypatch):
    """What would have been served; gradio itself is not needed."""
    seen = {}

    def serve(ensemble, load, samples, **launch):
        seen.update(launch, ensemble=ensemble, load=load, samples=samples)

    monkeypatch.setattr(page, "serve", serve)
    monkeypatch.setattr(page, "gradio", lambda: None)
    return seen


def test_models_of_ones_own(served, capsys, base_dir, arm_dir, lora_dir):
    models = ["--model", str(base_dir), "--reward-model", str(arm_dir), "--reward-model", str(lora_dir)]
    assert main(["app", *models, "--dtype", "float32", "--device", "cpu", "--port", "7999", "--samples", "3"]) == 0
    assert served["samples"] == 3
    assert served["ensemble"].objectives == ("helpful", "brief")
    assert (served["server_name"], served["server_port"]) == ("127.0.0.1", 7999)
    assert "http://127.0.0.1:7999" in capsys.readouterr().out
    assert served["load"](str(base_dir), [str(lora_dir)]).objectives == ("brief",)


def test_a_fixed_page_loads_nothing_else(served, base_dir, arm_dir):
    assert main(["app", "--model", str(base_dir), "--reward-model", str(arm_dir), "--device", "cpu", "--fixed"]) == 0
    assert served["load"] is None


def test_the_playground_by_default(served, monkeypatch):
    opened = {}
    monkeypatch.setattr("genarm_hf.app.playground.open_playground", lambda **asked: opened.update(asked))
    assert main(["app", "--pairs", "5"]) == 0
    assert opened["pairs"] == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "m"], "`--model` and `--reward-model` belong together"),
        (["--reward-model", "r"], "`--model` and `--reward-model` belong together"),
        (["--port", "0"], "`--port` must be between 1 and 65535, got 0"),
        (["--pairs", "0"], "`--pairs` must be at least 1, got 0"),
        (["--samples", "1"], "`--samples` must be at least 2, got 1"),
        (["--model", "./nowhere", "--reward-model", "r"], "there is no folder './nowhere'"),
    ],
)
def test_bad_input_is_one_sentence(served, capsys, options, said):
    assert main(["app", *options]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not served


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 2
    assert "pip install 'genarm-hf[app]'" in capsys.readouterr().err
