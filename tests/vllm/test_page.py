"""docs/how-to/serve-with-vllm.md works as typed: its commands run one after the other in an empty folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genarm_hf import AutoregressiveRewardModel, playground

from ..test_docs import _FENCE
from .serving import ENVIRONMENT, free_port, running

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "serve-with-vllm.md").read_text(encoding="utf-8")
# the page's commands are found as in an environment that somebody has activated
SEARCHED = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def blocks(*info: str) -> list[str]:
    return [match["code"] for match in _FENCE.finditer(PAGE) if tuple(match["info"].split()) == info]


def run(folder, *command):
    environment = os.environ | ENVIRONMENT | SEARCHED
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the page's small models and its composition are."""
    folder = tmp_path_factory.mktemp("page")
    run(folder, sys.executable, "-c", "".join(blocks("python")))
    assert "guided by" in run(folder, "bash", "-e", "-c", blocks("bash")[0])
    return folder


def test_the_server_answers_as_the_page_says(folder, tmp_path):
    port = free_port()
    (serve,) = (code.replace("8000", str(port)) for code in blocks("bash", "server"))
    # compiling takes a minute, and is left to the script below
    environment = SEARCHED | {"TORCH_COMPILE_DISABLE": "1"}
    with running(["bash", "-c", f"cd {folder}; exec {serve}"], port, tmp_path / "log.txt", **environment):
        replies = [run(folder, "bash", "-e", "-c", code.replace("8000", str(port))) for code in blocks("bash")[1:]]
    completion, chat, refused = map(json.loads, replies)
    assert completion["choices"][0]["text"] and chat["choices"][0]["message"]["content"]
    assert refused["error"]["code"] == 400 and "a list of 2" in refused["error"]["message"]


def test_the_script_without_a_server_says_what_transformers_says(folder):
    """It is also the test of vLLM's default, compiled code."""
    (code,) = blocks("python", "vllm")
    (folder / "script.py").write_text(code)
    lines = run(folder, sys.executable, "script.py").splitlines()
    replies = [line.strip() for line in lines if not line.startswith("(")][-2:]  # vLLM's processes log there too
    base, tokenizer = playground.load_base(), playground.load_tokenizer()
    arms = [AutoregressiveRewardModel.from_pretrained(folder / name) for name in ("helpful", "harmless")]
    inputs = tokenizer("User: How do I sharpen a knife? Assistant:", return_tensors="pt")
    expected = [
        base.generate(**inputs, reward_models=arms, alpha=alpha, max_new_tokens=40, do_sample=False)
        for alpha in (0.2, 2.0)
    ]
    length = inputs["input_ids"].shape[1]
    assert replies == [tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip() for ids in expected]
    assert replies[0] != replies[1]
