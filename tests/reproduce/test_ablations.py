"""Claim 6: curves whose reward at equal divergence is known, and what the claim makes of ARMs that reply by rule."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from genarm_hf.evaluation.runner import read
from genarm_hf.playground import prompts, score
from genarm_hf.reproduce import ablations as claim
from genarm_hf.reproduce.drawing import Drawn
from genarm_hf.reproduce.models import ArmTraining, training_pairs


def arrays(*numbers):
    """One resample of one seed and two prompts with these means."""
    return [np.array([[[number - 1, number + 1]]], dtype=float) for number in numbers]


def test_reward_at_equal_divergence():
    rewards, kls = arrays(0, 1, 2, 3), arrays(0, 1, 4, 10)
    found, default = claim._at_equal_kl([*rewards, *kls, *arrays(7.0), *arrays(1.5)])
    assert (found.tolist(), default.tolist()) == ([2.5], [1.5])  # halfway between alpha 1 and 2
    found, _ = claim._at_equal_kl([*rewards, *kls, *arrays(11.0), *arrays(1.5)])
    assert math.isnan(found[0])  # further than it goes


def test_one_thing_at_a_time():
    lab = SimpleNamespace(pairs_to_train_on=400)
    default = claim.training_of(lab, {"varied": claim.DEFAULT, "setting": "", "seed": 3})
    assert default == ArmTraining("helpful", 3, 400)  # that of other claims, which is trained once
    for what, several in claim.VARIED.items():
        for setting in several:
            changed = claim.training_of(lab, {"varied": what, "setting": setting, "seed": 3})
            differing = [name for name in vars(default) if getattr(changed, name) != getattr(default, name)]
            assert 1 <= len(differing) <= 2, (what, setting)
    assert claim.training_of(lab, {"varied": "pairs", "setting": "a quarter", "seed": 0}).pairs == 100


def test_flipped_labels():
    pairs = [{"prompt": str(n), "chosen": "good", "rejected": "bad"} for n in range(1000)]
    lab = SimpleNamespace(pairs=lambda objective, n, seed, scale: pairs)
    found = training_pairs(lab, ArmTraining("helpful", 0, 1000, flipped=0.2))
    assert sum(pair["chosen"] == "bad" for pair in found) == pytest.approx(200, abs=40)
    assert training_pairs(lab, ArmTraining("helpful", 0, 1000)) == pairs


def test_held_out_pairs_are_judged_without_noise_and_of_other_prompts():
    first, second, third = prompts(3, seed=0)
    good, kind = "First, fill a pocket with treats.", "Good luck with it."

    def pairs(objective, n, seed, scale=1.0):
        replies = {"chosen": kind, "rejected": good}
        if seed != claim._HELD_OUT_SEED:
            return [{"prompt": first, **replies}]
        assert scale == math.inf
        return [
            {"prompt": first, **replies},
            {"prompt": second, **replies},
            {"prompt": third, "chosen": kind, "rejected": kind},
        ]

    found = claim.held_out(SimpleNamespace(pairs=pairs, pairs_to_train_on=1, fast=True, seeds=range(1)))
    better = score("helpful", second, kind) > score("helpful", second, good)
    assert [pair["prompt"] for pair in found] == ([second] if better else [])


def test_the_claim_compares_all_arms(tmp_path, monkeypatch):
    lab = SimpleNamespace(prompts=["a", "b", "c"], seeds=range(5), pairs_to_train_on=8, strong=None, tokenizer=None)
    quality = {"rank": 64, "beta": 0.02}

    def trained_arm(lab, training):
        return 1.0 * (training.rank == quality["rank"]) - 1.0 * (training.beta == quality["beta"])

    def draw(lab, generate, prompts, seed, objectives, alphas):
        arm = generate.__closure__[0].cell_contents
        samples = [
            {"helpful": (4 + arm) * alpha + place % 3, "kl": 3 * alpha, "tokens": 1, "reply": ""}
            for place, (alpha,) in enumerate(alphas.tolist())
        ]
        return Drawn(samples)

    monkeypatch.setattr(claim, "trained_arm", trained_arm)
    monkeypatch.setattr(claim, "draw", draw)
    monkeypatch.setattr(claim, "held_out", lambda lab: [None] * 4)
    judged = SimpleNamespace(rewards=np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    monkeypatch.setattr(claim, "evaluate_preferences", lambda *args, **kwargs: judged)
    rows = claim.run(lab, tmp_path, lambda message: None)
    table = {
        (row["where"]["varied"], row["where"]["setting"]): row["values"] for row in rows if "varied" in row["where"]
    }
    assert len(table) == len(claim.VARIED) + sum(map(len, claim.VARIED.values()))
    assert all(
        values[claim._RIGHT]["mean"] == 0.75 and values[claim._RIGHT]["count"] == 12 for values in table.values()
    )
    assert table["ARM", "LoRA rank 64"][claim._CHANGE]["mean"] == pytest.approx(1.0)
    assert table["beta", "0.02"][claim._CHANGE]["mean"] == pytest.approx(-1.0)
    assert claim._CHANGE not in table["beta", "0.1 (default)"]
    default, wide = table["ARM", "LoRA rank 16 (default)"], table["ARM", "LoRA rank 64"]
    assert wide[claim._EQUAL]["mean"] - default[claim._REWARD]["mean"] == pytest.approx(1.0)
    assert [row["where"]["alpha"] for row in rows if row["table"] == claim._ALPHA_TABLE] == list(claim.ALPHAS)
    better, worse, same = claim.findings(rows)
    assert "ARM: LoRA rank 64" in better and "beta: 0.02" in worse and "margin: 1" in same
    claim.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
    assert len(read(tmp_path / "samples.jsonl")) == 3 * (3 * len(claim.ALPHAS) + 4) * (
        1 + sum(map(len, claim.VARIED.values()))
    )
