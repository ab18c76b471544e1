"""Replies whose distance from the base is known: the base's own, and rows that are guided by different amounts."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from genarm_hf import guide
from genarm_hf.evaluation import reply_logprobs
from genarm_hf.playground import load_tokenizer, prompts, score
from genarm_hf.reproduce import drawing
from genarm_hf.reproduce.drawing import draw


def tiny(tokenizer, seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ids)).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.lm_head.weight.data[tokenizer.eos_token_id] *= 0  # now and then, a text ends
    return model


@pytest.fixture(scope="module")
def lab():
    tokenizer = load_tokenizer()
    return SimpleNamespace(tokenizer=tokenizer, strong=tiny(tokenizer, 0), prompts=prompts(4, seed=0, split="test"))


def test_the_base_is_at_no_distance_from_itself(lab, monkeypatch):
    monkeypatch.setattr(drawing, "MAX_NEW_TOKENS", 12)
    drawn = draw(lab, lambda alpha, **kwargs: lab.strong.generate(**kwargs), lab.prompts, 0, ["helpful", "brief"])
    assert [abs(sample["kl"]) < 1e-4 for sample in drawn.samples] == [True] * 4
    assert (drawn.calls, drawn.passes) == (1, 12)
    for prompt, sample in zip(lab.prompts, drawn.samples, strict=True):
        assert sample["helpful"] == score("helpful", prompt, sample["reply"])
        assert sample["tokens"] == len(lab.tokenizer(sample["reply"])["input_ids"]) or sample["tokens"] == 12


def test_every_row_has_its_own_alphas(lab, monkeypatch):
    monkeypatch.setattr(drawing, "MAX_NEW_TOKENS", 6)
    arms = [tiny(lab.tokenizer, 1), tiny(lab.tokenizer, 2)]
    alpha = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])

    def generate(alpha, **kwargs):
        kept.append(lab.strong.generate(reward_models=arms, alpha=alpha, **kwargs))
        return kept[-1]

    kept = []
    monkeypatch.setattr(drawing, "ROWS", 3)
    drawn = draw(lab, generate, lab.prompts, 0, [], alpha)
    assert drawn.calls == 2 and abs(drawn.samples[0]["kl"]) < 1e-4
    for row, sample in enumerate(drawn.samples):
        width = -kept[row // 3].sequences.shape[1] + len(kept[row // 3].scores)
        ids = kept[row // 3].sequences[row % 3, -width:][: sample["tokens"]].tolist()
        line = [{"prompt": lab.prompts[row], "reply_ids": ids}]
        policy = guide(lab.strong, arms, alpha=alpha[row].tolist())
        own, base = (sum(reply_logprobs(model, lab.tokenizer, line)[0]) for model in (policy, lab.strong))
        assert sample["kl"] == pytest.approx(own - base, abs=1e-3)


def test_equal_seeds_give_equal_replies(lab, monkeypatch):
    monkeypatch.setattr(drawing, "MAX_NEW_TOKENS", 4)
    state = torch.get_rng_state()
    first, again, other = (
        [
            one["reply"]
            for one in draw(lab, lambda alpha, **kwargs: lab.strong.generate(**kwargs), lab.prompts, s, []).samples
        ]
        for s in (0, 0, 1)
    )
    assert first == again != other and torch.equal(torch.get_rng_state(), state)
