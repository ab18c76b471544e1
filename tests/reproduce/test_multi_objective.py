"""Claim 4: fronts of known area, labels of a judge who weighs objectives, and what the claim makes of all systems."""

from types import SimpleNamespace

import pytest
import torch

from genarm_hf.evaluation.runner import read
from genarm_hf.playground import load_tokenizer, prompts, score
from genarm_hf.playground.preferences import PreferencePair
from genarm_hf.reproduce import drawing
from genarm_hf.reproduce import multi_objective as claim
from genarm_hf.reproduce.drawing import Drawn
from genarm_hf.reproduce.lab import Lab

FIRST, OWN, *_ = claim.GENARM
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PROMPT = "User: How do I train a young dog? Assistant:"
GOOD, KIND = "First, fill a pocket with treats.", "Good luck with it."


def points(shift):
    """Two prompts under two seeds; every system's front is the same line, moved."""
    for at, system in enumerate(claim.FRONTS):
        for weight in WEIGHTS:
            for seed in range(2):
                for prompt in range(2):
                    noise = prompt - 0.5
                    yield {
                        "system": system,
                        "seed": seed,
                        "prompt": prompt,
                        "weight of helpful": weight,
                        "helpful": 4 * weight + claim.REFERENCE[0] + shift * at + noise,
                        "harmless": 4 * (1 - weight) + claim.REFERENCE[1] - noise,
                        "kl": 2.0 * weight * at,
                    }


def test_fronts_of_known_area():
    compared = {claim._LEAD: OWN, claim._DPO_LEAD: claim.FRONTS[3]}
    rows = {row["where"]["system"]: row["values"] for row in claim.front_rows(list(points(1.0)), compared)}
    # steps of 1 above the reference: 0x4, 1x3, 2x2, 3x1, 4x0, of which the staircase covers 6; moved by 1 each
    assert rows[FIRST]["hypervolume"]["mean"] == pytest.approx(6.0)
    assert rows[OWN]["hypervolume"]["mean"] == pytest.approx(6.0 + 4.0)
    lead, dpo_lead = rows[FIRST][claim._LEAD], rows[FIRST][claim._DPO_LEAD]
    assert lead["mean"] == pytest.approx(4.0) and lead["low"] > 0
    assert dpo_lead["mean"] == pytest.approx(12.0) and claim._DPO_LEAD not in rows[claim.FRONTS[3]]
    assert claim._LEAD not in rows[OWN] and rows[claim.FRONTS[3]][claim._KL]["mean"] == pytest.approx(3.0)
    # the last system has moved furthest to the right, and all of the best front is its
    assert rows[claim.FRONTS[-1]][claim._DISTANCE]["mean"] == pytest.approx(0.0)
    distances = [rows[system][claim._DISTANCE]["mean"] for system in claim.FRONTS]
    assert distances == sorted(distances, reverse=True) and distances[0] > 1


def test_labels_of_a_judge_who_weighs(monkeypatch):
    pair = PreferencePair(prompt=PROMPT, chosen=GOOD, rejected=KIND)
    lab = SimpleNamespace(pairs=lambda objective, n, seed: [pair] * n)
    difference = [score(one, PROMPT, GOOD) - score(one, PROMPT, KIND) for one in claim.OBJECTIVES]
    expected = torch.sigmoid(torch.tensor(0.25 * difference[0] + 0.75 * difference[1])).item()
    kept = sum(one["chosen"] == GOOD for one in claim.mixed_pairs(lab, 0.25, 2000, 0)) / 2000
    assert kept == pytest.approx(expected, abs=0.04)
    assert claim.mixed_pairs(lab, 0.25, 2000, 0) == claim.mixed_pairs(lab, 0.25, 2000, 0)
    asked = []
    lab.pairs = lambda objective, n, seed: asked.append(objective) or []
    claim.mixed_pairs(lab, 1.0, 9, 0), claim.mixed_pairs(lab, 0.0, 9, 0)
    assert asked == ["helpful", "harmless"]  # the very labels that the ARMs have learned from


@pytest.fixture
def stubs(monkeypatch):
    """A lab, and systems that reply by rule: the more weight, the more helpful."""
    lab = SimpleNamespace(
        prompts=prompts(60, seed=0, split="test"),
        dev_prompts=prompts(60, seed=1, split="test"),
        seeds=range(5),
        fast=True,
        strong=None,
        tokenizer=load_tokenizer(),
        pairs_to_train_on=4,
    )

    def draw(lab, policy, prompts, seed, objectives, alpha=None):
        shares = [policy] * len(prompts) if alpha is None else (alpha[:, 0] / alpha.sum(1)).tolist()
        number = iter(range(len(prompts)))
        samples = [{"helpful": 4 * one - 4 + next(number) % 2, "harmless": -3 * one, "kl": 1.0} for one in shares]
        drawn.append(alpha)
        return Drawn(samples, calls=1, passes=7, seconds=0.5)

    drawn = []
    for name, stub in {
        "draw": draw,
        "_plain": lambda model: model if isinstance(model, float) else 0.5,
        "_genarm": lambda lab, cell: None,
        "_mod": lambda lab, cell: None,
        "_soup": lambda lab, weight, cell: weight,
        "tuned": lambda lab, weight, cell: weight,
    }.items():
        monkeypatch.setattr(claim, name, stub)
    return SimpleNamespace(lab=lab, drawn=drawn)


def test_the_claim_compares_all_systems(stubs, tmp_path):
    rows = claim.run(stubs.lab, tmp_path, lambda message: None)
    by_table = {
        table: [row for row in rows if row["table"] == table] for table in (claim._POINTS, claim._FRONTS, claim._COSTS)
    }
    assert [row["where"] for row in by_table[claim._POINTS]][:2] == [
        {"system": "base", "weight of helpful": None},
        {"system": FIRST, "weight of helpful": 0.0},
    ]
    assert len(by_table[claim._POINTS]) == 1 + 3 * len(claim.FRONTS)
    assert all(row["values"]["helpful"]["count"] == 100 for row in by_table[claim._POINTS])  # 20 prompts, all seeds
    costs = {
        row["where"]["system"]: {name: value["mean"] for name, value in row["values"].items()}
        for row in by_table[claim._COSTS]
    }
    assert (
        costs[FIRST]
        == costs[next(iter(claim.MOD))]
        == {"models trained": 2, "generate() calls": 1, "passes over weights": 7, "seconds": 0.5}
    )
    assert costs[claim.RETRAINED] == {
        "models trained": 3,
        "generate() calls": 3,
        "passes over weights": 21,
        "seconds": 1.5,
    }
    # a batch holds every trade-off of every prompt
    batch = next(alpha for alpha in stubs.drawn if alpha is not None)
    assert batch.shape == (60, 2) and batch[:3].tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert sorted({round(float(alpha[0].sum())) for alpha in stubs.drawn if alpha is not None}) == [1, 2]
    assert len([line for line in read(tmp_path / "samples.jsonl") if "prompt" in line]) == 100 + 300 * len(claim.FRONTS)
    said = claim.findings(rows)
    assert len(said) == 11 and "not told apart" in said[1]
    assert claim.answer(rows).count("not told apart from") == 8 and "GenARM's front, at 1.0 nats" in claim.answer(rows)
    claim.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_what_a_front_takes_is_told_with_one_seed_too():
    one, other = dict.fromkeys(claim.FIELDS, 1.0), dict.fromkeys(claim.FIELDS, 4.0)
    (row,) = claim.cost_rows([{"system": "a", **one}, {"system": "a", **other}])
    assert row["where"] == {"system": "a"} and row["table"] == claim._COSTS
    assert all(value == {"mean": 2.5, "low": 1.0, "high": 4.0, "count": 2} for value in row["values"].values())
    (alone,) = claim.cost_rows([{"system": "a", **one}])
    assert all(value == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 1} for value in alone["values"].values())


@pytest.mark.slow
def test_every_system_runs(tmp_path, monkeypatch):
    pytest.importorskip("trl")
    monkeypatch.setattr(drawing, "MAX_NEW_TOKENS", 4)
    pair = PreferencePair(prompt=PROMPT, chosen=GOOD, rejected=KIND)
    lab = Lab(tmp_path, fast=True)
    monkeypatch.setattr(Lab, "pairs", lambda lab, objective, n, seed, scale=1.0: [pair] * n)
    monkeypatch.setattr(claim, "sizes", lambda lab: {"trade-offs": 2, "prompts": 2, "pairs": 4})
    rows = claim.run(lab, tmp_path / "claim", lambda message: None)
    points = {
        (row["where"]["system"], row["where"]["weight of helpful"]): row["values"]
        for row in rows
        if row["table"] == claim._POINTS
    }
    assert len(points) == 1 + 2 * len(claim.FRONTS)
    # of one model alone, a soup is that model, and so is the model trained for this weight alone
    for weight in (0.0, 1.0):
        soup, alone = (points[system, weight]["kl"]["mean"] for system in (claim.SOUPS, claim.RETRAINED))
        assert soup == pytest.approx(alone, abs=1e-3)
