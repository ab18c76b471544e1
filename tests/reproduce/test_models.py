"""Reward models of the lab: trained, kept, loaded; LoRA on the strong base and the whole weak one."""

import pytest
import torch

from genarm_hf.baselines.trajectory_rewards import TrajectoryReward
from genarm_hf.reproduce import models
from genarm_hf.reproduce.lab import Lab
from genarm_hf.reproduce.models import (
    ArmTraining,
    trained_arm,
    trained_prefix_value,
    trained_trajectory_reward,
    untrained_arm,
)

from ..conftest import tiny

PAIR = {"prompt": "User: Teach me to train a young dog. Assistant:", "chosen": "It is safe.", "rejected": "Now go."}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    lab = Lab(tmp_path, fast=True)
    size = {"vocab_size": len(lab.tokenizer)}
    lab.__dict__.update(strong=tiny("llama", **size), weak=tiny("llama", seed=1, num_hidden_layers=1, **size))
    monkeypatch.setattr(Lab, "pairs", lambda self, objective, n, seed, scale: [PAIR] * n)
    return lab


@pytest.mark.parametrize("backbone", ["strong", "weak"])
def test_an_arm_is_trained_once_and_leaves_the_base_alone(lab, backbone, monkeypatch):
    before = {name: weight.clone() for name, weight in getattr(lab, backbone).named_parameters()}
    training = ArmTraining("brief", seed=0, pairs=16, backbone=backbone, rank=2, batch_size=4)
    arm = trained_arm(lab, training)
    assert arm.config.objective == "brief" and arm.config.beta == 0.1 and not arm.training
    rewards = [model.score(lab.tokenizer, PAIR["prompt"], [PAIR["chosen"], PAIR["rejected"]]) for model in
               (arm, untrained_arm(lab, backbone))]  # fmt: skip
    assert rewards[0].diff() < rewards[1].diff()  # learned to prefer the first
    assert all(torch.equal(before[name], weight) for name, weight in getattr(lab, backbone).named_parameters())
    monkeypatch.setattr(models, "_train", None)
    again = trained_arm(lab, training).score(lab.tokenizer, PAIR["prompt"], [PAIR["chosen"], PAIR["rejected"]])
    torch.testing.assert_close(again, rewards[0])


def test_a_trajectory_reward_model_is_trained_on_the_same_pairs(lab, monkeypatch):
    before = {name: weight.clone() for name, weight in lab.strong.named_parameters()}
    training = ArmTraining("brief", seed=0, pairs=16, rank=2, batch_size=4)
    texts = (PAIR["prompt"], [PAIR["chosen"], PAIR["rejected"]])
    rewards = TrajectoryReward(trained_trajectory_reward(lab, training), lab.tokenizer).score(*texts)
    assert rewards[0] > rewards[1]
    assert all(torch.equal(before[name], weight) for name, weight in lab.strong.named_parameters())
    monkeypatch.setattr(models, "_train_trajectory", None)
    again = trained_trajectory_reward(lab, ArmTraining("brief", 0, 16, rank=2, batch_size=4, beta=9.0))
    torch.testing.assert_close(TrajectoryReward(again, lab.tokenizer).score(*texts), rewards)


def test_a_prefix_value_learns_from_the_reward_model(lab, monkeypatch):
    before = {name: weight.clone() for name, weight in lab.strong.named_parameters()}
    training = ArmTraining("brief", seed=0, pairs=16, rank=2, batch_size=4)
    value = TrajectoryReward(trained_prefix_value(lab, training))
    ids = lab.tokenizer(f"{PAIR['prompt']} It is", return_tensors="pt")["input_ids"]
    found = value(ids)
    assert found.shape == (1,) and found.isfinite().all()
    assert all(torch.equal(before[name], weight) for name, weight in lab.strong.named_parameters())
    monkeypatch.setattr(models, "_train_value", None)
    # the head is among what is kept
    torch.testing.assert_close(TrajectoryReward(trained_prefix_value(lab, training))(ids), found)
