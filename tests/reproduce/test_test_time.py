"""Claim 1: who is chosen, who wins, and the whole claim with untrained models and replies of a few tokens."""

import pytest

from genarm_hf.baselines.trajectory_rewards import TrajectoryReward, from_causal_lm
from genarm_hf.evaluation.runner import read
from genarm_hf.reproduce import replies, test_time
from genarm_hf.reproduce.lab import Lab
from genarm_hf.reproduce.models import untrained_arm
from genarm_hf.reproduce.test_time import BEST_OF_N, GENARM, METHODS

from ..conftest import tiny


def row(table, method, setting, **values):
    intervals = {name: {"mean": value, "low": value, "high": value, "count": 4} for name, value in values.items()}
    return {"table": table, "where": {"method": method, "setting": setting}, "values": intervals}


def test_the_setting_of_the_highest_reward_is_chosen():
    tuning = [row("t", "a", "1", reward=0.5), row("t", "a", "2", reward=0.7), row("t", "b", "x", reward=-1.0)]
    assert test_time.chosen(tuning) == {"a": "2", "b": "x"}


def test_duels_are_of_the_same_prompts_and_seeds():
    def sample(method, setting, seed, prompt, reward):
        return {"method": method, "setting": setting, "seed": seed, "prompt": prompt, "reward": reward}

    samples = [
        *(sample(GENARM, "alpha 2", seed, prompt, 10 * seed + prompt) for seed in (0, 1) for prompt in (0, 1)),
        sample(GENARM, "alpha 1", 0, 0, 99.0),
        sample("other", "w 1", 1, 0, 9.0),
        sample("other", "w 1", 0, 1, 1.0),
        sample("other", "w 1", 1, 1, 12.0),
    ]
    duels = test_time.against(samples, {GENARM: "alpha 2"})
    assert [duel["reward of GenARM minus it"] for duel in duels] == [1.0, 0.0, -1.0]
    assert [[duel[name] for name in ("win", "tie", "loss")] for duel in duels] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert all(duel["method"] == "other" for duel in duels)


def test_who_is_beaten_in_a_sentence():
    lead, duels = "reward of GenARM minus it", test_time._DUELS
    chosen = {GENARM: "alpha 2", "weak": "w 1", "level": "w 3", "strong": "w 9"}
    tuning = [row(test_time._TUNING, name, setting, reward=1.0) for name, setting in chosen.items()]
    between = {"mean": 0.0, "low": -1.0, "high": 1.0, "count": 2}
    rows = [
        *tuning,
        row(duels, "weak", "w 1", **{lead: 2.0}),
        row(duels, "weak", "w 2", **{lead: -9.0}),  # which was not chosen
        row(duels, "strong", "w 9", **{lead: -1.0}),
        {"table": duels, "where": {"method": "level", "setting": "w 3"}, "values": {lead: between}},
        row(duels, test_time.SHARPENED, "alpha 2", **{lead: 0.5}),
    ]
    assert test_time.answer(rows) == (
        "better than 1 of 3 methods, by 2.0 to 2.0 points; not told apart from level; worse than strong; better than "
        "the base sharpened as much"
    )


def test_best_of_n_is_compared_at_equal_cost():
    costs = {"base tokens per token": 1.5, "other tokens per token": 1.0}
    own = row("s", GENARM, "alpha 1", **costs)
    systems = [
        own,
        *(row("s", BEST_OF_N, f"n {n}", **{name: n * cost for name, cost in costs.items()}) for n in (1, 2)),
    ]
    duels = [row("d", BEST_OF_N, f"n {n}", **{"reward of GenARM minus it": 1.5 - n}) for n in (1, 2)]
    said = test_time._equal_cost(own, systems, duels)
    assert "n 1: 2.5, n 2: 5.0" in said
    assert "No dearer than GenARM: n 1." in said and "not told apart from it: n 2." in said


def test_all_methods_with_a_choice_have_as_many_settings():
    counts = {len(method.grid) for method in METHODS.values() if len(method.grid) > 1}
    assert counts == {4}
    for method in METHODS.values():
        assert len(method.named(Lab(None))) == len(method.grid)  # no two names alike
        assert len(method.named(Lab(None, fast=True))) == min(len(method.grid), 2)


class Untrained:
    """Guides that have learned nothing."""

    scale = (0.0, 1.0)

    def __init__(self, lab, seed):
        self.arm, self.policy = untrained_arm(lab, "weak"), tiny("llama", seed=2, vocab_size=len(lab.tokenizer))
        self.reward = TrajectoryReward(from_causal_lm(lab.strong), lab.tokenizer)
        self.value = TrajectoryReward(from_causal_lm(lab.strong, per_token=True))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    lab = Lab(tmp_path / "lab", fast=True)
    prompts, size = lab.prompts[:2], {"vocab_size": len(lab.tokenizer)}
    strong = tiny("llama", **size)
    lab.__dict__.update(strong=strong, weak=tiny("llama", seed=1, num_hidden_layers=1, **size))
    monkeypatch.setattr(Lab, "prompts", prompts)
    monkeypatch.setattr(Lab, "dev_prompts", prompts)
    monkeypatch.setattr(test_time, "Guides", Untrained)
    for options in (replies.WRITING, replies.SAMPLING):
        monkeypatch.setitem(options, "max_new_tokens", 3)
    return lab


def test_the_claim_compares_all_methods(lab, tmp_path):
    rows = test_time.run(lab, tmp_path, lambda message: None)
    systems = [row["where"]["method"] for row in rows if row["table"] == "Held-out prompts"]
    assert set(systems) == set(METHODS) and systems.count(GENARM) == systems.count(BEST_OF_N) == 2
    samples = read(tmp_path / "samples.jsonl")
    for row in rows:
        name = {"Held-out prompts": "samples", "Tuning, on dev prompts": "dev"}.get(row["table"], "duels")
        lines = [one for one in read(tmp_path / f"{name}.jsonl") if one.items() >= row["where"].items()]
        for field, value in row["values"].items():
            known = [one[field] for one in lines if one[field] is not None]
            assert value["count"] == len(known) and value["mean"] == pytest.approx(sum(known) / len(known))
    known = {one["method"] for one in samples if one["KL"] is not None}
    assert known == {"base", "sharpened base", GENARM}
    assert all(one["KL"] == pytest.approx(0, abs=1e-3) for one in samples if one["method"] == "base")
    assert {one["method"] for one in samples if one["KL bound"] is not None} == {BEST_OF_N}
    assert len(test_time.findings(rows)) == 1 + len(METHODS)  # GenARM, each of the others, equal cost
    methods = sum(len(method.grid) > 1 for method in METHODS.values()) - 1
    assert f" of {methods} methods" in test_time.answer(rows)
    test_time.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
