"""Claim 3: the gap and its shares, with systems whose rewards are known; and which models guide which."""

from types import SimpleNamespace

import pytest

from genarm_hf.decoding.guided_model import GuidedModel
from genarm_hf.evaluation.runner import read
from genarm_hf.reproduce import weak_to_strong
from genarm_hf.reproduce.training_time import DPO, SETTINGS
from genarm_hf.reproduce.weak_to_strong import BASE, GUIDED, PROXY, STRONG_DPO, WEAK_BASE, WEAK_DPO

from ..conftest import tiny

DPO_SETTINGS = list(SETTINGS[DPO])
REWARDS = {BASE: 1.0, WEAK_BASE: 0.0, WEAK_DPO: 2.0, GUIDED: 3.0, PROXY: 4.0, STRONG_DPO: 5.0}


@pytest.fixture
def lab():
    weak = tiny("llama", seed=1, num_hidden_layers=1)
    prompts = {"prompts": list("abcdef"), "dev_prompts": ["d", "e"]}
    return SimpleNamespace(fast=True, seeds=range(2), pairs_to_train_on=2, strong=tiny("llama"), weak=weak, **prompts)


def reply(lab, cell, prompts):
    setting = cell["setting"]
    # alpha 1 is the best, and the second of two trainings
    worse = 0.1 * abs(setting - 1) if isinstance(setting, float) else 0.5 * (setting == DPO_SETTINGS[0])
    own = {"reward": REWARDS[cell["system"]] - worse, "KL": 1.0, "base perplexity": 2.0, "distinct-2": 1.0}
    return [{"prompt": at, **own} for at in range(len(prompts))]


def test_shares_of_the_gap(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(weak_to_strong, "_reply", reply)
    rows = weak_to_strong.run(lab, tmp_path, lambda message: None)
    systems = {tuple(row["where"].values()): row["values"] for row in rows if row["table"] == "Held-out prompts"}
    floor, ceiling = 1.0, 5.0
    assert systems[BASE, ""]["reward"]["mean"] == pytest.approx(floor)
    assert systems[STRONG_DPO, DPO_SETTINGS[1]]["reward"]["mean"] == pytest.approx(ceiling)
    for name, reward in ((GUIDED, 3.0), (PROXY, 4.0)):
        gap = systems[name, 1.0]["gap recovered"]
        assert gap["mean"] == pytest.approx((reward - floor) / (ceiling - floor)) and gap["count"] == 12
    assert all("gap recovered" not in values for (name, _), values in systems.items() if name in (BASE, STRONG_DPO))
    assert systems[WEAK_BASE, ""]["gap recovered"]["mean"] < 0
    found = weak_to_strong.findings(rows)
    assert "recovers 50% (50% to 50%) of" in weak_to_strong.answer(rows)
    assert "(alpha 1): 50%" in found[1] and "(beta 0.1, rate 0.0003)" in found[3]
    assert {line["seed"] for line in read(tmp_path / "dev.jsonl")} == {0}
    weak_to_strong.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_who_guides_whom(lab, monkeypatch):
    asked = []
    tuned = tiny("llama", seed=2, num_hidden_layers=1)
    monkeypatch.setattr(weak_to_strong, "trained_arm", lambda lab, training: asked.append(training) or tuned)
    monkeypatch.setattr(weak_to_strong, "trained_policy", lambda lab, training: asked.append(training) or tuned)
    assert weak_to_strong._policy(lab, BASE, "", 1)[0] is lab.strong
    assert weak_to_strong._policy(lab, WEAK_BASE, "", 1)[0] is lab.weak
    for system in (GUIDED, PROXY):
        policy, others = weak_to_strong._policy(lab, system, 2.0, 1)
        assert isinstance(policy, GuidedModel) and policy._base is lab.strong
        assert tuned in others.values() and (lab.weak in others.values()) == (system == PROXY)
    assert [one.learning_rate for one in asked] == [weak_to_strong.ARM_RATE, weak_to_strong.DPO_RATE]
    assert [one.backbone for one in asked] == ["weak", "weak"] and [one.seed for one in asked] == [1, 1]
    assert weak_to_strong._policy(lab, STRONG_DPO, DPO_SETTINGS[1], 1)[0] is tuned
    assert (asked[-1].backbone, asked[-1].epochs, asked[-1].method) == ("strong", 2, "dpo")
