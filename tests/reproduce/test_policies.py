"""Bases tuned by training: trained once, kept, loaded; the base that they start from stays as it is."""

import pytest
import torch

from genarm_hf.reproduce import policies
from genarm_hf.reproduce.lab import Lab
from genarm_hf.reproduce.policies import PolicyTraining, trained_policy
from genarm_hf.scoring import read_logits

from ..conftest import tiny

PAIR = {"prompt": "User: Teach me to train a young dog. Assistant:", "chosen": "It is safe.", "rejected": "Now go."}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    pytest.importorskip("trl")
    lab = Lab(tmp_path, fast=True)
    size = {"vocab_size": len(lab.tokenizer)}
    lab.__dict__.update(strong=tiny("llama", **size), weak=tiny("llama", seed=1, num_hidden_layers=1, **size))
    monkeypatch.setattr(Lab, "pairs", lambda self, objective, n, seed: [PAIR] * n)
    return lab


@torch.no_grad()
def margin(lab, model):
    """By how much the chosen reply is likelier than the rejected one, in nats."""
    found = []
    for reply in (PAIR["chosen"], PAIR["rejected"]):
        ids = torch.tensor([[*lab.tokenizer(f"{PAIR['prompt']} {reply}")["input_ids"], lab.tokenizer.eos_token_id]])
        logprobs = read_logits(model, ids, torch.ones_like(ids), ids.shape[1])[0].log_softmax(-1)
        start = len(lab.tokenizer(PAIR["prompt"])["input_ids"]) - 1
        found.append(logprobs[start:-1].gather(1, ids[0, start + 1 :, None]).sum())
    return float(found[0] - found[1])


@pytest.mark.parametrize(("method", "backbone"), [("dpo", "strong"), ("simpo", "strong"), ("dpo", "weak")])
def test_a_policy_is_trained_once_and_leaves_the_base_alone(lab, method, backbone, monkeypatch):
    base = getattr(lab, backbone)
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    training = PolicyTraining(method, "brief", seed=0, pairs=16, beta=1.0, backbone=backbone, rank=2, batch_size=4)
    learned = margin(lab, trained_policy(lab, training))
    assert learned > margin(lab, base) + 0.1
    assert {name for name, _ in base.named_parameters()} == set(before)
    assert all(torch.equal(before[name], weight) for name, weight in base.named_parameters())
    monkeypatch.setattr(policies, "_train", None)
    again = trained_policy(lab, training)
    assert margin(lab, again) == learned and not again.training
    assert type(again) is type(base)  # a plain model, as fast as its base
