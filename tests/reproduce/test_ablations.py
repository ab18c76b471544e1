"""Claim 6: curves whose reward at equal divergence is known, and what the claim makes of ARMs that reply by rule."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from genarm_hf.evaluation.runner import read
from genarm_hf.reproduce import ablations as claim
from genarm_hf.reproduce.drawing import Drawn
from genarm_hf.reproduce.lab import Lab
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
    cell = {"seed": 3, "pairs": 400}
    default = claim.training_of({"varied": claim.DEFAULT, "setting": "", **cell})
    assert default == ArmTraining("helpful", 3, 400)
    for what, several in claim.VARIED.items():
        for setting in several:
            changed = claim.training_of({"varied": what, "setting": setting, **cell})
            differing = [name for name in vars(default) if getattr(changed, name) != getattr(default, name)]
            assert 1 <= len(differing) <= 2, (what, setting)
    assert claim.training_of({"varied": "pairs", "setting": "a quarter", **cell}).pairs == 100


def test_flipped_labels():
    pairs = [{"prompt": str(n), "chosen": "good", "rejected": "bad"} for n in range(1000)]
    lab = SimpleNamespace(pairs=lambda objective, n, seed, scale: pairs)
    found = training_pairs(lab, ArmTraining("helpful", 0, 1000, flipped=0.2))
    assert sum(pair["chosen"] == "bad" for pair in found) == pytest.approx(200, abs=40)
    assert training_pairs(lab, ArmTraining("helpful", 0, 1000)) == pairs


def test_held_out_pairs_are_judged_without_noise():
    good, kind = "First, fill a pocket with treats.", "Good luck with it."
    prompt = "User: How do I train a young dog? Assistant:"

    def pairs(objective, n, seed, scale):
        assert (objective, n, scale) == ("helpful", 7, math.inf) and seed > 100
        replies = [(good, kind), (kind, kind), (kind, good)]  # better, as good, worse
        return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for chosen, rejected in replies]

    found = claim.held_out(SimpleNamespace(pairs=pairs), {"held out": 7})
    assert [pair["chosen"] for pair in found] == [good]


def test_the_claim_compares_all_arms(tmp_path, monkeypatch):
    lab = Lab(tmp_path)
    monkeypatch.setattr(claim, "sizes", lambda lab: {"prompts": 3, "pairs": 8, "held out": 4})
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
    monkeypatch.setattr(claim, "held_out", lambda lab, cell: [None] * 4)
    judged = SimpleNamespace(rewards=np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    monkeypatch.setattr(claim, "evaluate_preferences", lambda *args, **kwargs: judged)
    rows = claim.run(lab, tmp_path, lambda message: None)
    table = {
        (row["where"]["varied"], row["where"]["setting"]): row["values"] for row in rows if "varied" in row["where"]
    }
    assert len(table) == len(claim.VARIED) + sum(map(len, claim.VARIED.values()))
    assert all(
        values[claim._RIGHT]["mean"] == 0.75 and values[claim._RIGHT]["count"] == 20 for values in table.values()
    )
    assert table["ARM", "LoRA rank 64"][claim._CHANGE]["mean"] == pytest.approx(1.0)
    assert table["beta", "0.02"][claim._CHANGE]["mean"] == pytest.approx(-1.0)
    assert claim._CHANGE not in table["beta", "0.1 (default)"]
    default, wide = table["ARM", "LoRA rank 16 (default)"], table["ARM", "LoRA rank 64"]
    assert wide[claim._EQUAL]["mean"] - default[claim._REWARD]["mean"] == pytest.approx(1.0)
    assert [row["where"]["alpha"] for row in rows if row["table"] == claim._ALPHA_TABLE] == list(claim.ALPHAS)
    better, worse, same = claim.findings(rows)
    assert "of 13 changes, 1 are better and 1 worse" in claim.answer(rows)
    assert "ARM: LoRA rank 64" in better and "beta: 0.02" in worse and "margin: 1" in same
    claim.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
    assert len(read(tmp_path / "samples.jsonl")) == 5 * (3 * len(claim.ALPHAS) + 4) * (
        1 + sum(map(len, claim.VARIED.values()))
    )
