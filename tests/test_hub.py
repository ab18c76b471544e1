"""Loading from a hub that answers over HTTP: what arrives, and what is asked for."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel
from tests.conftest import tiny
from tests.hub_server import serve
from tests.reward_models import PEFT_WARNINGS, lora, python

pytestmark = [PEFT_WARNINGS, pytest.mark.slow]

_CLIENT = """
from genarm_hf import AutoregressiveRewardModel
from transformers import AutoModel, AutoModelForCausalLM
for name in ("full", "adapted", "sharded"):
    for auto in (AutoregressiveRewardModel, AutoModel, AutoModelForCausalLM):
        assert type(auto.from_pretrained(f"org/{name}")) is AutoregressiveRewardModel
assert AutoregressiveRewardModel.from_pretrained("org/plain").config.adapter["base_model_name_or_path"] == "org/base"
for name, error, text in [
    ("pickle", ValueError, "'org/pickle' holds its weights in pytorch_model.bin, a pickle file"),
    ("none", OSError, "org/none is not a local folder and is not a valid model identifier"),
]:
    try:
        AutoregressiveRewardModel.from_pretrained(f"org/{name}")
    except error as caught:
        assert text in str(caught), caught
    else:
        raise AssertionError(name)
"""


@pytest.fixture
def repositories(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = AutoregressiveRewardModel.from_backbone(lora(base))
    adapted.save_pretrained(tmp_path / "adapted")
    adapted.backbone.save_pretrained(tmp_path / "plain")
    for name in ("adapted", "plain"):
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "org/base"}))
    AutoregressiveRewardModel.from_backbone(tiny("gpt2")).save_pretrained(tmp_path / "full")
    AutoregressiveRewardModel.from_backbone(tiny("llama")).save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    base.save_pretrained(tmp_path / "pickle")
    torch.save({}, tmp_path / "pickle" / "pytorch_model.bin")
    (tmp_path / "pickle" / "model.safetensors").unlink()
    return {f"org/{path.name}": path for path in tmp_path.iterdir()}


def test_a_hub(repositories, tmp_path):
    with serve(repositories) as (address, asked):
        environment = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        root = str(Path(__file__).parents[1])
        run = python(_CLIENT, tmp_path, PYTHONPATH=root, DISABLE_SAFETENSORS_CONVERSION="1", **environment)
        output = run.communicate(timeout=240)[0]
    assert run.returncode == 0, output
    downloads = [line for line in asked if line.startswith("GET") and "/resolve/" in line]
    assert not [line for line in downloads if line.endswith(".bin")]
    assert len(downloads) == len(set(downloads))
