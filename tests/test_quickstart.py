"""docs/quickstart.md works as typed, from the demo to a model on own pairs, in sizes that teach nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genarm_hf import playground

from .test_docs import _FENCE

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
DEMO = "genarm-hf demo\n"
HUB = "Qwen/Qwen2.5-0.5B-Instruct"  # the page's model of the hub; here a folder of that name


def blocks(*info: str) -> list[str]:
    return [match["code"] for match in _FENCE.finditer(PAGE) if tuple(match["info"].split()) == info]


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def prepare(folder: Path) -> None:
    """What the reader brings: a chat model, and pairs of messages such as the page shows."""
    playground.load_base().save_pretrained(folder / HUB)
    tokenizer = playground.load_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}User: {{ message['content'] }} Assistant:"
        "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder / HUB)
    (shown,) = blocks("json")
    row = json.loads(shown)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for pair in playground.preference_pairs("brief", 40, seed=0):
            prompt = pair["prompt"].removeprefix("User: ").removesuffix(" Assistant:")
            texts = {"prompt": prompt, "chosen": pair["chosen"].strip(), "rejected": pair["rejected"].strip()}
            file.write(json.dumps({name: [row[name][0] | {"content": texts[name]}] for name in row}) + "\n")


@pytest.mark.slow
def test_every_command_and_snippet_as_typed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    prepare(tmp_path)
    _, *commands = blocks("bash")  # the first installs
    assert commands[0] == DEMO, "made small below"
    told = [
        run(
            tmp_path,
            "bash",
            "-euo",
            "pipefail",
            "-c",
            code.replace(DEMO, f"{DEMO.strip()} --pairs 16 --prompts 2 --alphas 0,2"),
        )
        for code in commands
    ]
    assert "oracle reward" in told[0] and (tmp_path / "demo-output" / "arm-harmless" / "config.json").exists()
    assert (tmp_path / "my-arm" / "adapter_model.safetensors").exists()
    (own,) = blocks("python", "notest")
    assert run(tmp_path, sys.executable, "-c", own).strip()
