"""`genarm-hf serve` up to where the engine takes over; `tests/vllm` starts engines."""

import json
import sys
from types import SimpleNamespace

import pytest

from genarm_hf.cli import main, serve
from genarm_hf.integrations.vllm import versions


@pytest.fixture
def composed(base_dir, arm_dir, tmp_path, capsys):
    folder = tmp_path / "guided"
    models = ["--model", str(base_dir), "--reward-model", str(arm_dir)]
    assert main(["compose", *models, "--output", str(folder)]) == 0
    capsys.readouterr()
    return folder


@pytest.fixture
def vllm(monkeypatch):
    """As if vLLM were installed; the commands that would become its server."""
    commands = []
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    monkeypatch.setattr(versions, "check_version", lambda: None)
    monkeypatch.setattr(versions, "check_plugin", lambda: None)
    monkeypatch.setattr(serve, "distributions", lambda name: [SimpleNamespace(name=name)])
    monkeypatch.setattr(serve, "_become_vllm", commands.append)
    return commands


def refused(capsys, *argv: str) -> str:
    assert main(["serve", *argv]) == 2
    return capsys.readouterr().err


def test_a_folder_goes_to_vllm_with_its_own_options(composed, vllm, capsys):
    assert main(["serve", str(composed), "--", "--port", "8001"]) == 0
    module = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
    assert vllm == [[*module, str(composed), "--port", "8001"]]
    assert "(helpful) at alpha 0.25" in capsys.readouterr().out


def test_vllms_build_for_cpus_has_no_serve_command(composed, vllm, monkeypatch):
    monkeypatch.setattr(serve, "distributions", lambda name: [])
    assert main(["serve", str(composed)]) == 0
    assert vllm[0][2:] == ["vllm.entrypoints.openai.api_server", "--model", str(composed)]


def test_models_are_composed_first_and_keep_the_name_they_were_given(base_dir, arm_dir, tmp_path, vllm, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    argv = ["serve", "--model", str(base_dir), "--reward-model", str(arm_dir), "--alpha"]
    for alpha in ("0.5", "0.5", "-0.5"):
        assert main([*argv, alpha, "--", "--dtype", "float32"]) == 0
    folders = [command[4] for command in vllm]
    assert folders[0] == folders[1] != folders[2]
    assert vllm[0][5:] == ["--served-model-name", str(base_dir), "--dtype", "float32"]
    config = json.loads((tmp_path / folders[2] / "config.json").read_text())
    assert config["genarm_arms"] == [{"model": str(arm_dir), "revision": None, "alpha": -0.5}]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], "name what to serve"),
        (["DIR", "--model", "x"], "one of them"),
        (["DIR", "--alpha", "0.5"], "belong to `--model`"),
        (["DIR", "--engine", "tgi"], "must be one of vllm, transformers; got 'tgi'"),
        (["DIR", "--port", "8001"], "unrecognized arguments: --port 8001; what is the engine's goes behind `--`"),
        (["DIR", "--", "--model=other"], "served unguided"),
        (["DIR", "--", "other"], "served unguided"),
        (["--model", "BASE"], "`--reward-model` is missing"),
        (["--model", "BASE", "--reward-model", "BASE", "--alpha", "1", "2"], "got 2"),
        (["BASE"], "is not a folder that `genarm-hf compose` wrote"),
        (["no/such/folder"], "is not a folder that `genarm-hf compose` wrote"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_starts(composed, base_dir, vllm, capsys, argv, reason):
    places = {"DIR": str(composed), "BASE": str(base_dir)}
    assert reason in refused(capsys, *[places.get(word, word) for word in argv])
    assert not vllm


def test_a_model_that_has_gone_is_named(composed, vllm, capsys):
    config = json.loads((composed / "config.json").read_text())
    config["genarm_arms"][0]["model"] = "/gone"
    (composed / "config.json").write_text(json.dumps(config))
    assert "'/gone' is not a directory" in refused(capsys, str(composed))


def test_without_any_engine_it_says_what_to_install(composed, monkeypatch, capsys):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    monkeypatch.setattr("transformers.utils.import_utils.is_serve_available", lambda: False)
    assert "pip install 'genarm-hf[vllm]'" in refused(capsys, str(composed))
    assert "vLLM is not installed" in refused(capsys, str(composed), "--engine", "vllm")


def test_the_server_of_transformers_has_no_guided_continuous_batching(composed, capsys):
    argv = [str(composed), "--engine", "transformers", "--", "--continuous-batching"]
    assert "has no guidance" in refused(capsys, *argv)


def test_a_plugin_that_vllm_would_not_load(monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    with pytest.raises(ImportError, match="add 'genarm', or unset"):
        versions.check_plugin()
    monkeypatch.delenv("VLLM_PLUGINS")
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(ValueError, match="past the checks"):
        versions.check_plugin()
    monkeypatch.delenv("VLLM_USE_RUST_FRONTEND")
    monkeypatch.setattr(versions, "entry_points", lambda group: [])
    with pytest.raises(ImportError, match="where genarm-hf is installed"):
        versions.check_plugin()
