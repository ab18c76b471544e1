"""Registration with the Auto classes, in any order of imports; and repositories that bring their own code."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel, GenARMConfig
from tests.conftest import prompts, tiny
from tests.reward_models import PEFT_WARNINGS, lora, python

pytestmark = PEFT_WARNINGS

_ORDERS = {
    "the class first": "from genarm_hf import AutoregressiveRewardModel",
    "its loading first": "import genarm_hf.loading",
    "the Auto classes first": "from transformers import AutoModel; import genarm_hf",
}
_CHECK = """
import sys, genarm_hf
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
config = AutoConfig.for_model("genarm")
assert type(config) is genarm_hf.GenARMConfig
for auto in (AutoModel, AutoModelForCausalLM):
    assert auto._model_mapping[type(config)] is genarm_hf.AutoregressiveRewardModel
"""


@pytest.mark.slow
def test_any_order_of_imports(tmp_path):
    root = str(Path(__file__).parents[1])
    runs = {name: python(first + _CHECK, tmp_path, PYTHONPATH=root) for name, first in _ORDERS.items()}
    for name, run in runs.items():
        output = run.communicate(timeout=120)[0]
        assert run.returncode == 0, f"{name}: {output}"


_REMOTE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "genarm_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
torch.set_num_threads(1)
ids = torch.load("ids.pt", weights_only=True)
for name in ("full", "lora"):
    expected = torch.load(f"{name}.pt", weights_only=True)
    for auto in (AutoModel, AutoModelForCausalLM):
        arm = auto.from_pretrained(name, trust_remote_code=True)
        assert type(arm).__name__ == "AutoregressiveRewardModel"
        assert type(arm).__module__.startswith("transformers_modules.")
        assert torch.equal(arm.token_rewards(ids), expected), (name, auto)
    assert AutoConfig.from_pretrained(name, trust_remote_code=True).beta == 0.1
    base = AutoModelForCausalLM.from_pretrained("base")
    if name == "lora":
        shared = type(arm).from_pretrained(name, base_model=base)
        assert torch.equal(shared.token_rewards(ids), expected)
    arm.save_pretrained(f"{name}-again")  # code goes along with what came with code
    again = AutoModel.from_pretrained(f"{name}-again", trust_remote_code=True)
    assert torch.equal(again.token_rewards(ids), expected)
"""


@pytest.fixture
def with_code():
    AutoregressiveRewardModel.register_for_auto_class()
    yield
    AutoregressiveRewardModel._auto_class = GenARMConfig._auto_class = None


@pytest.mark.slow
def test_repositories_that_bring_their_code(with_code, tmp_path):
    tiny("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    ids = prompts(2, 8)["input_ids"]
    torch.save(ids, tmp_path / "ids.pt")
    backbones = {"full": tiny("gpt2", seed=2), "lora": lora(base)}
    for name, backbone in backbones.items():
        arm = AutoregressiveRewardModel.from_backbone(backbone, beta=0.1)
        arm.save_pretrained(tmp_path / name)
        torch.save(arm.token_rewards(ids).detach(), tmp_path / f"{name}.pt")
    run = python(_REMOTE, tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"), PYTHONPATH="")
    output = run.communicate(timeout=120)[0]
    assert run.returncode == 0, output
    # where the package is installed, its own code is what runs
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "full"), AutoregressiveRewardModel)


def test_no_code_is_saved_unasked(tmp_path):
    AutoregressiveRewardModel.from_backbone(tiny("llama")).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in (tmp_path / "config.json").read_text()


def test_a_saved_copy_does_not_point_to_code_it_does_not_have(with_code, tmp_path):
    AutoregressiveRewardModel.from_backbone(tiny("llama")).save_pretrained(tmp_path / "first")
    assert (tmp_path / "first" / "modeling_genarm.py").exists()
    AutoregressiveRewardModel._auto_class = GenARMConfig._auto_class = None
    AutoregressiveRewardModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert "auto_map" not in (tmp_path / "second" / "config.json").read_text()
