"""Rewards of full texts: padding, texts, classifiers made of causal LMs, and what is refused."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from genarm_hf import playground
from genarm_hf.baselines import TrajectoryReward, from_causal_lm

from ..conftest import EOS, PAD, prompts, tiny
from .reference import classifier, reward_of, rows


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "qwen3"])
def test_padding_on_either_side_changes_nothing(kind: str, per_token: bool) -> None:
    reward, prompt = classifier(kind, per_token=per_token), prompts(4, 7, padded=True)
    expected = torch.tensor([reward_of(reward, ids) for ids in rows(prompt)])
    torch.testing.assert_close(reward(**prompt), expected, atol=1e-4, rtol=1e-4)
    right = torch.nn.utils.rnn.pad_sequence(list(rows(prompt)), batch_first=True, padding_value=7)
    lengths = prompt["attention_mask"].sum(1, keepdim=True)
    found = reward(right, (torch.arange(7) < lengths).long())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_a_masked_text_in_front_of_other_padding_ids() -> None:
    """What stands in masked places does not matter, least of all the last one."""
    reward = classifier()
    ids, mask = torch.tensor([[5, 6, 9, 9]]), torch.tensor([[1, 1, 0, 0]])
    torch.testing.assert_close(reward(ids, mask), reward(ids[:, :2]), atol=1e-5, rtol=1e-5)


def test_texts_end_with_the_end_of_text() -> None:
    tokenizer = playground.load_tokenizer()
    reward = classifier(vocab_size=len(tokenizer))
    reward.tokenizer = tokenizer
    found = reward.score("Good", [" luck with it.", " luck.", ""], batch_size=2)
    for text, one in zip([" luck with it.", " luck.", ""], found, strict=True):
        ids = [*tokenizer("Good")["input_ids"], *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        assert reward_of(reward, torch.tensor(ids)) == pytest.approx(float(one), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma"])
def test_a_classifier_of_a_causal_lm_has_its_weights(kind: str) -> None:
    model = tiny(kind)
    for per_token in (False, True):
        made = from_causal_lm(model, per_token=per_token)
        ids = prompts()["input_ids"]
        hidden = made.base_model(ids).last_hidden_state
        torch.testing.assert_close(hidden, model.base_model(ids).last_hidden_state)
        next(made.base_model.parameters()).data.zero_()
        assert next(model.base_model.parameters()).abs().sum() > 0, "the weights must be a copy"
        assert made.config.num_labels == 1 and made.config.pad_token_id == PAD and not made.training


def test_padding_is_the_end_of_text_where_there_is_none() -> None:
    assert from_causal_lm(tiny(pad_token_id=None, eos_token_id=[EOS, 3])).config.pad_token_id == EOS
    with pytest.raises(ValueError, match="pad_token_id"):
        from_causal_lm(tiny(pad_token_id=None, eos_token_id=None))


def test_what_is_no_reward_model_is_refused() -> None:
    model = tiny()
    with pytest.raises(TypeError, match="from_causal_lm"):
        TrajectoryReward(model)
    with pytest.raises(TypeError, match="classifier of transformers"):
        TrajectoryReward(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="causal LM of transformers"):
        from_causal_lm(from_causal_lm(model))
    encoder = AutoConfig.for_model(
        "bert", vocab_size=48, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_labels=1,
    )  # fmt: skip
    with pytest.raises(TypeError, match="decoder"):
        TrajectoryReward(AutoModelForSequenceClassification.from_config(encoder))
    several = from_causal_lm(model)
    several.config.num_labels = 2
    with pytest.raises(ValueError, match="num_labels"):
        TrajectoryReward(several)
    unpadded = from_causal_lm(model)
    unpadded.config.pad_token_id = None
    with pytest.raises(ValueError, match="pad_token_id"):
        TrajectoryReward(unpadded)
    with pytest.raises(ValueError, match="tokenizer"):
        classifier().score("a", "b")


def test_a_peft_model_must_be_merged_first() -> None:
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(tiny(), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TypeError, match="merge_and_unload"):
        from_causal_lm(wrapped)
