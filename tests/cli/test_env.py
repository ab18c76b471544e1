"""`genarm-hf env`: a table that can be pasted, with what a bug report needs and nothing that is private."""

import platform

import torch
import transformers

import genarm_hf
from genarm_hf.cli import main
from genarm_hf.cli.env import environment, free_memory


def test_it_is_a_markdown_table(capsys):
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["|  |  |", "| --- | --- |"]
    assert all(line.startswith("| ") and line.endswith(" |") and line.count("|") == 3 for line in lines)


def test_what_it_says(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    monkeypatch.setenv("GENARM_HF_NO_INSTALL", "1")
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["genarm-hf"] == genarm_hf.__version__
    assert found["torch"] == torch.__version__ and found["transformers"] == transformers.__version__
    assert {"peft", "accelerate", "huggingface-hub", "safetensors"} <= found.keys()
    assert str(torch.get_num_threads()) in found["cores, threads of torch"]
    assert found["GENARM_HF_NO_INSTALL"] == "1"
    assert "secret" not in " ".join(found.values())


def test_free_memory_names_the_cpu():
    assert 0 < free_memory()["cpu"] < 2**50
