"""Claim 5 in a world of nine texts: where training ends, and what is written."""

import json

import pytest
import torch

from genarm_hf.evaluation.runner import read
from genarm_hf.reproduce import expressiveness, worlds
from genarm_hf.reproduce.claims import reproduce
from genarm_hf.reproduce.lab import Lab

SHAPE = (3, 2)


@pytest.fixture
def world():
    base = worlds.random_tables(*SHAPE, seed=3)
    rewards = expressiveness.rewards_of("independent", *SHAPE, seed=4)
    return base, rewards, worlds.preferences(worlds.text_logprobs(base), rewards)


def distances(base, arm, rewards, alpha):
    log_base = worlds.text_logprobs(base)
    optimum = worlds.reweighted(log_base, rewards, alpha)
    guided = worlds.text_logprobs(worlds.guided(base, arm, alpha))
    return worlds.kl(guided, optimum), worlds.kl(worlds.reweighted(log_base, worlds.text_logprobs(arm), alpha), optimum)


def test_the_papers_loss_ends_at_the_reward_itself(world):
    base, rewards, pairs = world
    *_, (step, arm) = expressiveness.trained(base, pairs, 256)
    assert step == 256
    differences = worlds.text_logprobs(arm) - rewards
    torch.testing.assert_close(differences, differences.mean().expand(9), atol=2e-3, rtol=0)
    guided, reweighted = distances(base, arm, rewards, 1.0)
    assert reweighted < 1e-6 and guided > 1e-3


def test_training_through_the_policy_ends_at_the_optimum(world):
    base, rewards, pairs = world
    found = dict(expressiveness.trained(base, pairs, 256, through=2.0))
    assert list(found) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert distances(base, found[256], rewards, 2.0)[0] < 1e-6 < distances(base, found[1], rewards, 2.0)[0]


def test_it_starts_at_the_base_and_sees_what_it_may(world):
    base, _, pairs = world
    first, *_ = expressiveness.trained(base, pairs, 1)
    for table, start in zip(base, first[1], strict=True):
        torch.testing.assert_close(start, table)
    *_, (_, blind) = expressiveness.trained(base, pairs, 4, order=0)
    assert blind[1].shape == (3, 3) and (blind[1] == blind[1][0]).all()
    *_, (_, seeing) = expressiveness.trained(base, pairs, 4, order=1)
    assert not (seeing[1] == seeing[1][0]).all()


def test_prefixes_with_the_same_last_token_share_a_row():
    logits = torch.arange(9.0).view(3, 3)
    table = expressiveness._seen(logits, 9)  # prefixes 00, 01, 02, 10, ...
    assert table[[1, 4, 7]].tolist() == [[3, 4, 5]] * 3


def test_additive_rewards_are_sums_of_points_of_tokens():
    rewards = expressiveness.rewards_of("additive", 3, 2, seed=0).view(3, 3)
    torch.testing.assert_close(rewards[1] - rewards[0], (rewards[1, 0] - rewards[0, 0]).expand(3))


def test_the_claim_writes_samples_table_and_figure(tmp_path, monkeypatch):
    cells = [
        {"vocab": 2, "length": 2, "reward": reward, "world": world, "steps": 2}
        for reward in expressiveness._REWARDS
        for world in range(2)
    ]
    monkeypatch.setattr(expressiveness, "_cells", lambda fast: cells)
    monkeypatch.setattr(expressiveness, "_COMMON", (2, 2))
    messages = []
    found = reproduce("expressiveness", Lab(tmp_path / "lab", fast=True), tmp_path, messages.append)
    folder = tmp_path / "expressiveness"
    assert json.loads((folder / "table.json").read_text()) == found
    assert (folder / "figure.png").stat().st_size > 0 and len(messages) == 4
    assert found["answer"].startswith("the theorem holds (to ")
    assert not (tmp_path / "lab").exists()  # no model was needed
    samples = read(folder / "samples.jsonl")
    for row in found["rows"]:
        lines = [one for one in samples if all(one[name] == value for name, value in row["where"].items())]
        for field, value in row["values"].items():
            assert value["count"] == len(lines)
            assert value["mean"] == pytest.approx(sum(one[field] for one in lines) / len(lines))
