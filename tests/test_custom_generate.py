"""examples/custom_generate: the same tokens as the package gives, from a folder, from a hub, and for every argument."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, TextStreamer

import genarm_hf
from genarm_hf import AutoregressiveRewardModel
from tests.conftest import VOCAB, prompts, tiny
from tests.hub_server import serve
from tests.reward_models import python, word_tokenizer

TEMPLATE = Path(__file__).parents[1] / "examples" / "custom_generate"
RECIPE = {"custom_generate": str(TEMPLATE), "trust_remote_code": True}
GREEDY = {"max_new_tokens": 10, "do_sample": False}


@pytest.fixture(autouse=True)
def modules_apart(tmp_path, monkeypatch):
    """Transformers copies code that it loads; here to a place of the test's own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


@pytest.fixture
def models():
    base = tiny("llama")
    return base, AutoregressiveRewardModel.from_backbone(tiny("gpt2", seed=1)), tiny("qwen2", seed=2)


@pytest.fixture(params=[True, False], ids=["installed", "not installed"])
def installed(request):
    """With `generate()` taking reward models by itself, and without."""
    if not request.param:
        genarm_hf.uninstall()
    yield request.param
    genarm_hf.install()


def expected(base, arms, alpha, inputs, **kwargs):
    return genarm_hf.guide(base, arms, alpha).generate(**inputs, **kwargs)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"repetition_penalty": 1.3},
        {"cache_implementation": "static"},
        {"use_cache": False},
    ],
    ids=lambda how: next(iter(how), "greedy"),
)
def test_the_tokens_are_those_of_the_package(models, installed, how):
    base, *arms = models
    inputs = prompts(2, padded=True)
    found = base.generate(**inputs, **RECIPE, reward_models=arms, alpha=[0.7, -0.3], **GREEDY, **how)
    assert torch.equal(found, expected(base, arms, [0.7, -0.3], inputs, **GREEDY, **how))
    assert not torch.equal(found, base.generate(**inputs, **GREEDY, **how)) and "generate" not in vars(base)


def test_sampling_draws_the_same(models, installed):
    base, *arms = models
    inputs, how = prompts(2), {"do_sample": True, "top_k": 0, "max_new_tokens": 10}
    torch.manual_seed(3)
    found = base.generate(**inputs, **RECIPE, reward_models=arms, alpha=0.5, **how)
    torch.manual_seed(3)
    assert torch.equal(found, expected(base, arms, 0.5, inputs, **how))


def test_nothing_is_lost_on_the_way(models, installed, capsys):
    """What a callable `custom_generate` loses: streamer, tokenizer, assistant; and our own outputs."""
    base, arm, _ = models
    inputs, tokenizer = prompts(1), word_tokenizer()
    plain = expected(base, [arm], 0.5, inputs, **GREEDY)
    how = GREEDY | {"streamer": TextStreamer(tokenizer), "tokenizer": tokenizer}
    found = base.generate(**inputs, **RECIPE, reward_models=[arm], alpha=0.5, **how)
    assert torch.equal(found, plain)
    assert capsys.readouterr().out.split() == [tokenizer.decode([token]) for token in plain[0]]
    other = word_tokenizer(words={f"x{index}": index for index in range(VOCAB)} | {"<unk>": 3})
    with pytest.raises(ValueError, match="another vocabulary than the base"):
        guided = {"reward_models": [arm], "reward_tokenizers": [tokenizer], "alpha": 0.5}
        base.generate(**inputs, **RECIPE, **guided, tokenizer=other, **GREEDY)
    asked = {"reward_models": [arm], "alpha": 0.5, "return_dict_in_generate": True, **GREEDY}
    drafted = base.generate(**inputs, **RECIPE, **asked, assistant_model=arm, output_rewards=True)
    assert torch.equal(drafted.sequences, plain)
    assert drafted.rewards.shape == (1, 1, 10) and drafted.speculation.drafted > 0


def test_without_reward_models_it_is_stock_generate(models, installed):
    base, inputs = models[0], prompts(2)
    assert torch.equal(base.generate(**inputs, **RECIPE, **GREEDY), base.generate(**inputs, **GREEDY))


def test_alpha_without_reward_models_is_refused(models, installed):
    base, inputs = models[0], prompts(2)
    with pytest.raises(ValueError, match="`alpha` needs reward models"):
        base.generate(**inputs, **RECIPE, **GREEDY, reward_models=[], alpha=0.5)


def test_a_model_in_the_same_repository(models, installed, tmp_path):
    """Loaded with trusted code, its own `generate` is the template's; inputs may come without their name."""
    base, arm, _ = models
    base.save_pretrained(tmp_path / "guided")
    shutil.copytree(TEMPLATE, tmp_path / "guided", dirs_exist_ok=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "guided", trust_remote_code=True)
    ids = prompts(2)["input_ids"]
    assert "generate" in vars(loaded)
    found = loaded.generate(ids, reward_models=[arm], alpha=0.5, **GREEDY)
    assert torch.equal(found, expected(base, [arm], 0.5, {"input_ids": ids}, **GREEDY))
    assert torch.equal(loaded.generate(ids, **GREEDY), base.generate(ids, **GREEDY))


def test_its_requirements_are_met_and_nothing_else_is_asked_for():
    from importlib.metadata import version

    from packaging.requirements import Requirement

    lines = (TEMPLATE / "custom_generate" / "requirements.txt").read_text().splitlines()
    assert [Requirement(line).name for line in lines] == ["genarm-hf"]
    assert Requirement(lines[0]).specifier.contains(version("genarm-hf"))


_CLIENT = """
import sys, torch
from transformers import AutoModelForCausalLM
assert "genarm_hf" not in sys.modules
model, ids = AutoModelForCausalLM.from_pretrained("org/base"), torch.tensor([[5, 6, 7]])
said = model.generate(ids, custom_generate="org/genarm", trust_remote_code=True, reward_models=["org/arm"], alpha=0.5,
                      max_new_tokens=10, do_sample=False)
import genarm_hf
guided = genarm_hf.guide(model, ["org/arm"], 0.5)
assert torch.equal(said, guided.generate(ids, max_new_tokens=10, do_sample=False))
assert not torch.equal(said, model.generate(ids, max_new_tokens=10, do_sample=False))
"""


@pytest.mark.slow
def test_from_a_hub_without_importing_the_package_first(models, tmp_path):
    base, arm, _ = models
    base.save_pretrained(tmp_path / "base")
    arm.save_pretrained(tmp_path / "arm")
    repositories = {"org/base": tmp_path / "base", "org/arm": tmp_path / "arm", "org/genarm": TEMPLATE}
    with serve(repositories) as (address, asked):
        environment = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        root = str(Path(__file__).parents[1])
        environment |= {"PYTHONPATH": root, "HF_MODULES_CACHE": str(tmp_path / "hub-modules")}
        run = python(_CLIENT, tmp_path, DISABLE_SAFETENSORS_CONVERSION="1", **environment)
        output = run.communicate(timeout=240)[0]
    assert run.returncode == 0, output
    assert any("/custom_generate/generate.py" in line for line in asked)
