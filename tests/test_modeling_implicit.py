"""`ImplicitRewardModel` as an object: what it takes, what it says of texts, what it refuses."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForSequenceClassification

from genarm_hf import AutoregressiveRewardModel, ImplicitRewardModel
from genarm_hf.evaluation.preferences import evaluate_preferences

from .conftest import prompts, tiny
from .decoding.conftest import tokenizer  # noqa: F401 - a fixture

peft = pytest.importorskip("peft")


def adapted(lm: Any, **changes: Any) -> Any:
    torch.manual_seed(1)
    fields = {"r": 3, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    return peft.get_peft_model(lm, peft.LoraConfig(**fields | changes)).eval()


@torch.no_grad()
def logprobs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def test_token_rewards_are_a_difference() -> None:
    tuned, reference = tiny("llama"), tiny("gpt2", seed=1)
    ids = prompts(2, 7)["input_ids"]
    rewards = ImplicitRewardModel(tuned, reference).token_rewards(ids)
    torch.testing.assert_close(
        rewards[:, 1:].detach(), logprobs(tuned, ids) - logprobs(reference, ids), atol=1e-5, rtol=1e-5
    )
    assert not rewards[:, 0].any()


def test_padding_changes_nothing() -> None:
    implicit = ImplicitRewardModel(tiny("llama"), tiny("gpt2", seed=1))
    ids = prompts(1, 7)["input_ids"]
    padded, mask = torch.nn.functional.pad(ids, (3, 0)), torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
    torch.testing.assert_close(
        implicit.token_rewards(padded, mask)[:, 4:], implicit.token_rewards(ids)[:, 1:], atol=1e-4, rtol=1e-4
    )


def test_scores_are_those_of_both(tokenizer: Any) -> None:  # noqa: F811
    tuned, reference = tiny("llama"), tiny("gpt2", seed=1)
    arms = [AutoregressiveRewardModel.from_backbone(model) for model in (tuned, reference)]
    texts = ["ab", "c", "ab"], ["defg", "h", "ijk"]
    expected = arms[0].score(tokenizer, *texts) - arms[1].score(tokenizer, *texts)
    for implicit in (ImplicitRewardModel(tuned, reference), ImplicitRewardModel(*arms)):
        torch.testing.assert_close(implicit.score(tokenizer, *texts, batch_size=2), expected, atol=1e-4, rtol=1e-4)


def test_held_out_pairs_by_implicit_rewards() -> None:
    tuned, reference = tiny("llama"), tiny("gpt2", seed=1)
    pairs = [{"prompt_ids": [1, 5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 9, 2]}]
    expected = evaluate_preferences(tuned, pairs, None, reference=reference).rewards
    found = evaluate_preferences(ImplicitRewardModel(tuned, reference), pairs, None).rewards
    np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")  # of the oldest PEFT
@pytest.mark.parametrize("changes", [{}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}])
def test_without_a_reference_it_is_the_model_without_its_adapter(changes: dict[str, Any]) -> None:
    plain = tiny("llama")
    lm = copy.deepcopy(plain)
    tuned = adapted(lm, **changes)
    if changes.get("modules_to_save"):
        torch.nn.init.normal_(tuned.base_model.model.lm_head.modules_to_save.default.weight)
    implicit = ImplicitRewardModel(tuned)
    ids = prompts(2, 7)["input_ids"]
    expected = logprobs(tuned, ids) - logprobs(plain, ids)
    torch.testing.assert_close(implicit.token_rewards(ids)[:, 1:].detach(), expected, atol=1e-5, rtol=1e-5)
    assert implicit.reference.causal_lm.model.embed_tokens.weight is lm.model.embed_tokens.weight


def test_names_of_repositories(tmp_path: Any) -> None:
    tiny("llama").save_pretrained(tmp_path / "tuned")
    tiny("llama", seed=1).save_pretrained(tmp_path / "reference")
    implicit = ImplicitRewardModel(str(tmp_path / "tuned"), tmp_path / "reference")
    ids = prompts(1, 5)["input_ids"]
    expected = ImplicitRewardModel(tiny("llama"), tiny("llama", seed=1)).token_rewards(ids)
    torch.testing.assert_close(implicit.token_rewards(ids), expected)


def test_it_moves_and_changes_mode_as_one() -> None:
    tuned, reference = tiny("llama"), tiny("gpt2", seed=1)
    implicit = ImplicitRewardModel(tuned, reference).to(torch.bfloat16).train()
    assert {tuned.dtype, reference.dtype} == {torch.bfloat16} and tuned.training and reference.training
    assert implicit.device == tuned.device


def test_what_it_refuses(tokenizer: Any) -> None:  # noqa: F811
    tuned = tiny("llama")
    with pytest.raises(ValueError, match="`reference` is None, and `tuned` has no adapter"):
        ImplicitRewardModel(tuned)
    with pytest.raises(ValueError, match="`reference` and `tuned` are one model"):
        ImplicitRewardModel(tuned, tuned)
    with pytest.raises(TypeError, match=r"`reference`: .*LlamaForSequenceClassification"):
        ImplicitRewardModel(tuned, LlamaForSequenceClassification(tuned.config))
    with pytest.raises(TypeError, match=r"`tuned`: .*int"):
        ImplicitRewardModel(3, tuned)
    with pytest.raises(ValueError, match="`tuned` has a vocabulary of 48 tokens and `reference` one of 400"):
        ImplicitRewardModel(tuned, tiny("gpt2", vocab_size=400))
    with pytest.raises(ValueError, match="bias='all'"):
        ImplicitRewardModel(adapted(tiny("llama"), bias="all"))
    merged = adapted(tiny("llama"))
    merged.merge_adapter()
    with pytest.raises(ValueError, match=r"merged into .*unmerge_adapter"):
        ImplicitRewardModel(merged)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        ImplicitRewardModel(tuned, tiny("gpt2")).score(tokenizer, "a", "b", batch_size=0)
