"""Claim 2: curves that are known, compared at equal KL; and the whole claim with models that say nothing new."""

from types import SimpleNamespace

import numpy as np
import pytest

from genarm_hf.evaluation.runner import read
from genarm_hf.reproduce import training_time
from genarm_hf.reproduce.training_time import BASE, DPO, GENARM, SIMPO, interpolated, matched

OWN, OTHER, LEAD = "its own", "the other's", "difference"


def points(system, setting, kl, reward):
    """Replies with these means, whichever prompts are drawn."""
    return [
        {"system": system, "setting": setting, "seed": seed, "prompt": prompt, "KL": kl, "reward": reward}
        for seed in range(2)
        for prompt in range(3)
    ]


def test_interpolated():
    kls, rewards = np.array([[0.0, 1.0, 3.0]]), np.array([[0.0, 2.0, 3.0]])
    found = [interpolated(kls, rewards, at)[0] for at in (0.0, 0.5, 1.0, 2.0, 3.0)]
    assert found == [0.0, 1.0, 2.0, 2.5, 3.0]
    assert interpolated(kls, rewards, 5.0) == 4.0  # its last slope goes on
    assert interpolated(kls[:, ::-1], rewards[:, ::-1], 2.0) == 2.5
    assert interpolated(np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]), 1.0).tolist() == [
        1,
        0.5,
    ]


def test_rewards_are_compared_where_both_curves_reach():
    samples = [
        *points(BASE, 0.0, 0.0, -1.0),
        *points(GENARM, 1.0, 2.0, 3.0),
        *points(GENARM, 4.0, 8.0, 5.0),
        *points(DPO, 0.1, 4.0, 1.0),
        *points(SIMPO, 2.5, 100.0, 9.0),
    ]
    rows = matched(samples, GENARM, DPO)
    assert [row["where"]["KL (nats)"] for row in rows] == [1.0, 2.0, 3.0, 4.0]  # up to the smaller of 8 and 4
    own, other, lead = ([row["values"][name]["mean"] for row in rows] for name in (OWN, OTHER, LEAD))
    assert own == pytest.approx([1.0, 3.0, 3 + 1 / 3, 3 + 2 / 3])
    assert other == pytest.approx([-0.5, 0.0, 0.5, 1.0])
    assert lead == pytest.approx(np.subtract(own, other))
    assert all(row["values"][LEAD]["low"] == pytest.approx(row["values"][LEAD]["mean"]) for row in rows)


def test_intervals_are_of_prompts_drawn_together():
    """A prompt on which both are better by as much says nothing about their difference."""
    samples = [*points(BASE, 0.0, 0.0, 0.0), *points(GENARM, 1.0, 2.0, 2.0), *points(DPO, 0.1, 2.0, 1.0)]
    samples = [one | {"reward": one["reward"] + 10 * one["prompt"]} for one in samples]
    values = matched(samples, GENARM, DPO)[-1]["values"]
    assert values[OWN]["low"] < values[OWN]["mean"] - 3
    assert values[LEAD]["low"] == pytest.approx(1.0) == values[LEAD]["high"]


def judged(lab, strength, prompts, seed, objective, batch_size):
    return [
        {
            "prompt": at,
            "reply": "",
            "reward": strength + seed + at,
            "KL": strength,
            "base perplexity": 2.0,
            "distinct-2": 1,
            "tokens": 3,
        }
        for at in range(len(prompts))
    ]


def sampled(lab, model, temperature=1.0):
    """Models are their strengths, the base's being 0; the colder, the stronger."""
    return (model or 0.0) if temperature == 1 else 1 / temperature - 1


@pytest.fixture
def lab(monkeypatch):
    monkeypatch.setattr(training_time, "judged", judged)
    monkeypatch.setattr(training_time, "sampled_by_stages", sampled)
    backbones = SimpleNamespace(from_backbone=lambda model: model)
    monkeypatch.setattr(training_time, "AutoregressiveRewardModel", backbones)
    monkeypatch.setattr(training_time, "guide", lambda base, arms, alpha: alpha)
    monkeypatch.setattr(training_time, "ImplicitRewardModel", lambda tuned, reference: tuned)
    monkeypatch.setattr(training_time, "trained_arm", lambda lab, training: training)
    monkeypatch.setattr(training_time, "trained_policy", lambda lab, training: 1 / training.beta)
    return SimpleNamespace(
        fast=True, strong=None, prompts=list("abcdef"), seeds=range(2), pairs_to_train_on=2, reward_rate=1e-3
    )


def test_the_claim_compares_all_systems(lab, tmp_path):
    rows = training_time.run(lab, tmp_path, lambda message: None)
    lines = read(tmp_path / "samples.jsonl")
    means = [row for row in rows if row["table"] == "Held-out prompts"]
    assert len(means) == 1 + 4 + 4 + 2 + 3 + 2 + 3 + 3 + 1
    for row in means:
        own = [line for line in lines if all(line[name] == value for name, value in row["where"].items())]
        assert row["values"]["reward"]["mean"] == pytest.approx(sum(line["reward"] for line in own) / len(own))
    # reward grows with KL alike for all, so nobody is better at equal KL
    assert all(abs(row["values"][LEAD]["mean"]) < 1e-9 for row in rows if row["table"] != "Held-out prompts")
    assert len(training_time.findings(rows)) == 7 + 3 + 1
    answer = training_time.answer(rows)
    assert answer.count("better at 0, worse at 0") == 6 and answer.endswith("of 4 equal distances from the base")
    training_time.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
