"""Two processes take the steps of one: the same global batch, the same parameters, the same metrics."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from packaging import version
from transformers import AutoModel

from ..conftest import tiny
from ..training.toys import word_tokenizer
from .distributed_worker import PROCESSES, SCENARIOS, run

ROOT = Path(__file__).parents[2]
RESUMES = version.parse(accelerate.__version__) >= version.parse("1.15")
pytest.importorskip("peft")


def start(root: Path) -> Path:
    tiny("llama", initializer_range=0.1).save_pretrained(root / "base")
    word_tokenizer().save_pretrained(root / "base")
    return root


def place(root: Path, name: str) -> Path:
    return root / name.replace(", ", "-")


def torchrun(root: Path, *arguments: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "tests.invariant.distributed_worker", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a scenario gives in one process, and the folder with its model."""
    root = start(tmp_path_factory.mktemp("one"))
    return cache(lambda name: (run(name, root), place(root, name)))


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same in two processes, all scenarios in one start."""
    root = start(tmp_path_factory.mktemp(request.param))
    names = [name for name, scenario in SCENARIOS.items() if RESUMES or not scenario.resume]
    torchrun(root, request.param, str(root), *names)
    results = json.loads((root / "results.json").read_text())
    assert {result["kind"] for result in results.values()} == {{"ddp": "MULTI_CPU", "fsdp": "FSDP"}[request.param]}

    def result(name: str) -> tuple[dict[str, Any], Path]:
        if name not in results:
            pytest.skip("these versions cannot load an optimizer in several processes on CPUs")
        return results[name], place(root, name)

    return result


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_equal_one(name: str, one: Any, two: Any) -> None:
    (expected, single), (found, several) = one(name), two(name)
    assert found["steps"] == expected["steps"] >= 4
    torch.testing.assert_close(torch.tensor(found["logs"]), torch.tensor(expected["logs"]), rtol=1e-4, atol=1e-5)
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-5)
    for folder in ("",) if SCENARIOS[name].shards else ("", "checkpoint-2"):
        arms = [AutoModel.from_pretrained(directory / folder) for directory in (single, several)]
        states = [arm.state_dict() for arm in arms]
        assert states[0].keys() == states[1].keys()
        for key, tensor in states[0].items():
            torch.testing.assert_close(states[1][key], tensor, rtol=1e-4, atol=1e-6, msg=key)
