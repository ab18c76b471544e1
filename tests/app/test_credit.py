"""What a word earned is what the models say of it, read without a cache."""

from dataclasses import replace

import pytest
import torch

from genarm_hf.app.credit import Credit, credits, token_rewards

from .conftest import REQUEST


def logprobs(model, prompt, reply):
    ids = torch.tensor([[*prompt, *reply]])
    table = model(ids).logits[0].float().log_softmax(-1)
    return [table[len(prompt) + place - 1, token].item() for place, token in enumerate(reply)]


def test_advantage_by_hand():
    assert Credit(reward=-1.5, habit=-4.0).advantage == 2.5


@torch.no_grad()
def test_credits_are_log_probabilities(tiny_ensemble):
    asked, reply = tiny_ensemble.ask(REQUEST), [9, 30, 2]
    prompt = asked.inputs["input_ids"][0].tolist()
    habits = logprobs(tiny_ensemble.base, prompt, reply)
    for arm, row in zip(tiny_ensemble.arms, credits(tiny_ensemble, asked, reply), strict=True):
        assert [credit.reward for credit in row] == pytest.approx(logprobs(arm, prompt, reply), abs=1e-4)
        assert [credit.habit for credit in row] == pytest.approx(habits, abs=1e-4)
    assert credits(tiny_ensemble, asked, []) == [[], []]


@torch.no_grad()
def test_padding_changes_nothing(tiny_ensemble):
    asked, replies = tiny_ensemble.ask(REQUEST), [[9, 30, 2], [7], [11, 12]]
    rewards, habits = token_rewards(tiny_ensemble, asked, replies)
    assert rewards.shape == (2, 3, 3) and habits.shape == (3, 3)
    for row, reply in enumerate(replies):
        alone, habit = token_rewards(tiny_ensemble, asked, [reply])
        assert torch.allclose(rewards[:, row, : len(reply)], alone[:, 0], atol=1e-5)
        assert torch.allclose(habits[row, : len(reply)], habit[0], atol=1e-5)
        assert not rewards[:, row, len(reply) :].any() and not habits[row, len(reply) :].any()


@torch.no_grad()
def test_a_reward_model_with_a_template_reads_its_own_prompt(tiny_ensemble, monkeypatch):
    arm = tiny_ensemble.arms[0]
    monkeypatch.setattr(arm.config, "prompt_template", "w40 {prompt} w41")
    asked = tiny_ensemble.ask(REQUEST)
    own = tiny_ensemble.tokenizer(f"w40 {REQUEST} w41")["input_ids"]
    row = credits(replace(tiny_ensemble), asked, [9, 30])[0]
    assert [credit.reward for credit in row] == pytest.approx(logprobs(arm, own, [9, 30]), abs=1e-4)
    prompt = asked.inputs["input_ids"][0].tolist()
    assert [credit.habit for credit in row] == pytest.approx(logprobs(tiny_ensemble.base, prompt, [9, 30]), abs=1e-4)
