"""What is counted is what was fed, and counting changes nothing of it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForSequenceClassification

import genarm_hf
from genarm_hf.adapters import share_weights
from genarm_hf.decoding.shared_backbone import models_of
from genarm_hf.evaluation import ModelCost, counting

from ..conftest import prompts, tiny

LOOP = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
STEPS = ModelCost(forwards=5, rows=10, tokens=2 * (6 + 4))  # a prompt of 6, then 4 tokens one by one, for 2 rows


def lora(base: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A LoRA reward model on the very tensors of the base, with terms that show."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(share_weights(base), config).eval()


def test_forwards_by_hand():
    model = tiny()
    with counting(base=model) as costs:
        model(torch.ones(2, 3, dtype=torch.long))
        model(input_ids=torch.ones(1, 4, dtype=torch.long))
        model(inputs_embeds=torch.ones(1, 5, 32))
    model(torch.ones(2, 3, dtype=torch.long))  # outside
    assert costs["base"] == ModelCost(forwards=3, rows=4, tokens=6 + 4 + 5)
    assert costs.seconds > 0
    assert costs.to_dict()["models"]["base"]["tokens"] == 15


def test_generation_counts_every_model_and_is_unchanged():
    base, arm = tiny(), tiny("gpt2", seed=1)
    plain = base.generate(**prompts(), reward_models=[arm], alpha=0.5, **LOOP)
    with counting(base=base, reward=arm, idle=tiny(seed=2)) as costs:
        counted = base.generate(**prompts(), reward_models=[arm], alpha=0.5, **LOOP)
    assert torch.equal(plain, counted)
    assert costs["base"] == costs["reward"] == STEPS
    assert costs["idle"] == ModelCost()


def test_one_pass_stays_one_pass_and_counts_both():
    base = tiny()
    arms = [lora(base, seed) for seed in (1, 2)]
    guided = genarm_hf.guide(base, arms, alpha=[0.5, 0.3], share_backbone=True)
    plain = guided.generate(**prompts(), **LOOP)
    with counting(base=base, one=arms[0], two=arms[1]) as costs:
        counted = base.generate(**prompts(), reward_models=arms, alpha=[0.5, 0.3], share_backbone=True, **LOOP)
    assert torch.equal(plain, counted)
    assert costs["base"] == STEPS
    assert costs["one"] == costs["two"] == ModelCost(forwards=0, joint=5, rows=10, tokens=20)


def test_separate_passes_of_the_same_models_are_told_apart():
    base = tiny()
    arm = lora(base, 1)
    with counting(base=base, arm=arm) as costs:
        base.generate(**prompts(), reward_models=[arm], alpha=0.5, share_backbone=False, **LOOP)
    assert costs["base"] == costs["arm"] == STEPS


def test_wrapped_models_and_classifiers_count():
    base = tiny()
    arm = genarm_hf.AutoregressiveRewardModel.from_backbone(tiny(seed=3))
    classifier = LlamaForSequenceClassification(base.config).eval()
    with counting(arm=arm, classifier=classifier) as costs:
        arm.token_rewards(torch.ones(2, 4, dtype=torch.long))
        classifier(torch.full((1, 7), 3))
    assert costs["arm"] == ModelCost(forwards=1, rows=2, tokens=8)
    assert costs["classifier"] == ModelCost(forwards=1, rows=1, tokens=7)


def test_an_encoder_decoder_counts_what_its_decoder_reads():
    model = tiny("t5")
    with counting(base=model) as costs:
        model.generate(**prompts(), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert costs["base"] == ModelCost(forwards=3, rows=6, tokens=6)


def test_nothing_counts_after_an_error():
    model = tiny()
    with pytest.raises(RuntimeError, match="mine"), counting(base=model) as costs:
        model(torch.ones(1, 2, dtype=torch.long))
        raise RuntimeError("mine")
    model(torch.ones(1, 2, dtype=torch.long))
    assert costs["base"].forwards == 1 and costs.seconds > 0


def test_bad_names_are_refused():
    model = tiny()
    with pytest.raises(ValueError, match="each model once"), counting(base=model, reward=model):
        pass
    with pytest.raises(ValueError, match="at least one"), counting():
        pass
    with pytest.raises(TypeError, match="`base` must be a model, got str"), counting(base="org/base"):
        pass


def test_any_other_module_is_itself():
    module = torch.nn.Linear(1, 1)
    assert models_of(module) == [module]
