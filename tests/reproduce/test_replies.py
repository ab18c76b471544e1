"""Samples of systems: what a reply is worth, how far it is from the base, and what it cost."""

import math

import pytest
import torch

from genarm_hf import guide
from genarm_hf.playground import score
from genarm_hf.reproduce import replies, stages
from genarm_hf.reproduce.lab import Lab
from genarm_hf.reproduce.models import untrained_arm
from genarm_hf.scoring import read_logits

from ..conftest import tiny

REPLIES = ("It is safe.", "It is safe. Now go.")


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path, fast=True)
    lab.__dict__.update(strong=tiny("llama", vocab_size=len(lab.tokenizer)))
    return lab


def saying(lab, passes=1, nats=None):
    """A system that lets the base read 3 rows of 5 ids, some times, and says what is known."""

    def system(prompts, seed):
        for _ in range(passes):
            lab.strong(torch.ones(3, 5, dtype=torch.long))
        ids = [[*lab.tokenizer(reply)["input_ids"], lab.tokenizer.eos_token_id] for reply in REPLIES]
        known = {} if nats is None else {"reply_logprobs": [nats]}
        return [{"reply": r, "reply_ids": i, "tokens": len(i), **known} for r, i in zip(REPLIES, ids, strict=True)]

    return system


@torch.no_grad()
def test_a_reply_is_judged_by_oracle_and_base(lab):
    found = replies.judged(lab, saying(lab, nats=-7.0), lab.prompts[:2], 0, "helpful")
    for number, (sample, prompt, reply) in enumerate(zip(found, lab.prompts, REPLIES, strict=False)):
        ids = torch.tensor([[*lab.tokenizer(f"{prompt} {reply}")["input_ids"], lab.tokenizer.eos_token_id]])
        logprobs = read_logits(lab.strong, ids, torch.ones_like(ids), ids.shape[1])[0].log_softmax(-1)[:-1]
        tokens = sample["tokens"]
        own = logprobs.gather(1, ids[0, 1:, None])[-tokens:, 0]
        assert (sample["prompt"], sample["reply"]) == (number, reply)
        assert sample["reward"] == score("helpful", prompt, reply)
        assert sample["KL"] == pytest.approx(-7.0 - float(own.sum()), rel=1e-4)
        assert sample["base perplexity"] == pytest.approx(math.exp(-float(own.mean())), rel=1e-4)
    # pairs of words: It is, is safe.; and again, with safe. Now, Now go.
    assert found[0]["distinct-2"] == found[1]["distinct-2"] == pytest.approx(4 / 6)


@torch.no_grad()
@pytest.mark.parametrize("sampled", [replies.sampled, replies.sampled_by_stages])
@pytest.mark.parametrize("sharpen", ["by an arm", "by temperature"])
def test_the_divergence_is_that_of_what_is_drawn_from(lab, monkeypatch, sharpen, sampled):
    """A base that guides itself is itself at half the temperature."""
    monkeypatch.setitem(replies.SAMPLING, "max_new_tokens", 5)
    monkeypatch.setattr(stages, "_FIRST", 2)
    monkeypatch.setattr(stages, "_NEXT", 1)
    if sharpen == "by an arm":
        system = sampled(lab, guide(lab.strong, [untrained_arm(lab)], alpha=1.0))
    else:
        system = sampled(lab, lab.strong, temperature=0.5)
    drawn = system(lab.prompts[:2], 3)
    found = replies.judged(lab, lambda prompts, seed: drawn, lab.prompts[:2], 0, "helpful")
    for sample, reply, prompt in zip(found, drawn, lab.prompts, strict=False):
        ids = torch.tensor([[*lab.tokenizer(prompt)["input_ids"], *reply["reply_ids"]]])
        base = read_logits(lab.strong, ids, torch.ones_like(ids), ids.shape[1])[0].log_softmax(-1)
        ratios = (2 * base).log_softmax(-1) - base
        expected = ratios[:-1].gather(1, ids[0, 1:, None])[-sample["tokens"] :].sum()
        assert sample["KL"] == pytest.approx(float(expected), abs=1e-4)


def test_the_divergence_is_unknown_where_the_system_says_nothing(lab):
    unknown = replies.judged(lab, saying(lab), lab.prompts[:2], 0, "helpful")
    assert [sample["KL"] for sample in unknown] == [None, None]


def test_costs_are_per_token_written(lab):
    found = replies.judged(lab, saying(lab, passes=4), lab.prompts[:2], 0, "helpful", others={})
    tokens = sum(sample["tokens"] for sample in found)
    assert found[0]["base forwards"] == 4
    assert found[0]["base tokens per token"] == pytest.approx(4 * 3 * 5 / tokens)
    assert found[0]["other tokens per token"] == 0 and found[0]["seconds per 128 tokens"] > 0


def test_every_prompt_is_answered_by_batches(lab):
    seeds = []

    def system(prompts, seed):
        seeds.append((len(prompts), seed))
        return saying(lab)(prompts, seed)[: len(prompts)]

    found = replies.judged(lab, system, lab.prompts[:3], 0, "helpful", batch_size=2)
    assert [sample["prompt"] for sample in found] == [0, 1, 2]
    assert [size for size, _ in seeds] == [2, 1] and seeds[0][1] != seeds[1][1]


@pytest.mark.parametrize("sampled", [replies.sampled, replies.sampled_by_stages])
def test_samples_are_the_policys_own(lab, monkeypatch, sampled):
    monkeypatch.setitem(replies.SAMPLING, "max_new_tokens", 3)
    system = sampled(lab, lab.strong)
    once, again = (system(lab.prompts[:2], 7) for _ in range(2))
    assert once == again and all(len(reply["reply_ids"]) <= 3 for reply in once)
    assert once != system(lab.prompts[:2], 8)
