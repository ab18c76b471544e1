"""The same equalities on a real model and a real tokenizer, where they are at hand."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import genarm_hf

from .decoding.reference import reference_greedy

NEVER = -1  # no id: the reference does not stop


@pytest.fixture
def stories(real_data: Path) -> Path:
    return real_data / "models" / "stories260K"


def test_real_models_equal_the_reference(stories: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    base, arm = (AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval() for _ in range(2))
    with torch.no_grad():  # another opinion than the base's
        arm.lm_head.weight = torch.nn.Parameter(arm.lm_head.weight + 0.3 * torch.randn_like(arm.lm_head.weight))
    texts = ["Once upon a time, there was a little girl", "The dog"]
    prompt = dict(tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))
    expected = reference_greedy(base, [arm], 1.2, prompt, 24, NEVER)
    settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    for mode in ({}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}):
        assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=1.2, **settings, **mode), expected)


def test_vocabularies_found_by_name_are_compared(stories: Path) -> None:
    base, arm = (AutoModelForCausalLM.from_pretrained(stories) for _ in range(2))
    reward_model = genarm_hf.AutoregressiveRewardModel.from_backbone(arm)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    rewards = reward_model.score(tokenizer, "Once upon a time", [" there was a girl.", " zqx vbk"])
    assert rewards[0] > rewards[1]
    assert genarm_hf.guide(base, reward_model)
