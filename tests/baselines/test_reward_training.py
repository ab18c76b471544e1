"""Trajectory rewards and prefix values are learned: by their losses, and on toy data that can be separated."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from genarm_hf.baselines import from_causal_lm, train_prefix_value, train_trajectory_reward
from genarm_hf.baselines.reward_training import PairCollator, RolloutCollator, preference_loss, value_loss

from ..conftest import EOS, tiny
from .reference import classifier, reward_of

GOOD = 7
LINEAR = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8, "max_steps": 40, "learning_rate": 1e-2, "report_to": "none", "use_cpu": True,
        "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no", "seed": 1,
    }  # fmt: skip
    return TrainingArguments(str(folder), **settings | changes)


def pairs(count: int, seed: int) -> list[dict[str, list[int]]]:
    """The chosen response has a certain token somewhere, the rejected one has not."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        plain = [draw.randrange(8, 48) for _ in range(draw.randrange(2, 6))]
        good = list(plain)
        good[draw.randrange(len(good))] = GOOD
        prompt = [draw.randrange(8, 48) for _ in range(3)]
        rows.append({"prompt_ids": prompt, "chosen_ids": [*good, EOS], "rejected_ids": [*plain, EOS]})
    return rows


def accuracy(reward: Any, rows: list[dict[str, list[int]]]) -> float:
    wins = 0
    for row in rows:
        chosen, rejected = (torch.tensor([[*row["prompt_ids"], *row[name]]]) for name in ("chosen_ids", "rejected_ids"))
        wins += int(reward(chosen) > reward(rejected))
    return wins / len(rows)


@pytest.mark.parametrize("adapter", [False, True])
def test_preferences_are_learned(tmp_path: Path, adapter: bool) -> None:
    torch.manual_seed(0)
    model, config = from_causal_lm(tiny(initializer_range=0.1)), None
    if adapter:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=8, target_modules=LINEAR, lora_dropout=0.0)
    before = {name: tensor.clone() for name, tensor in model.base_model.state_dict().items()}
    reward = train_trajectory_reward(model, pairs(160, 0), None, arguments(tmp_path), peft_config=config)
    assert accuracy(reward, pairs(40, 1)) > 0.9
    assert not reward.model.training
    if adapter:
        inner = reward.model.unload().base_model.state_dict()
        assert all(torch.equal(inner[name], before[name]) for name in before), "LoRA must leave the weights alone"


def test_the_loss_is_bradley_terry() -> None:
    reward = classifier()
    model = reward.model
    rows = [{"chosen": [5, 6, EOS], "rejected": [5, EOS]}, {"chosen": [8, EOS], "rejected": [8, 9, 9, EOS]}]
    rewards = {name: [reward_of(reward, torch.tensor(row[name])) for row in rows] for name in ("chosen", "rejected")}
    margins = [a - b for a, b in zip(rewards["chosen"], rewards["rejected"], strict=True)]
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / 2
    assert preference_loss(model, PairCollator(0)(rows)).item() == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_values_is_half_the_squared_error_at_response_tokens() -> None:
    model = from_causal_lm(tiny(), per_token=True).eval()
    rows = [
        {"prompt_ids": [5, 6], "response_ids": [7, EOS], "reward": 2.0},
        {"prompt_ids": [5], "response_ids": [8], "reward": -1.0},
    ]
    errors = []
    for row in rows:
        values = model(torch.tensor([[*row["prompt_ids"], *row["response_ids"]]])).logits[0, :, 0].tolist()
        errors += [(v - row["reward"]) ** 2 / 2 for v in values[len(row["prompt_ids"]) :]]
    assert value_loss(model, RolloutCollator(0)(rows)).item() == pytest.approx(sum(errors) / 3, abs=1e-5)


@pytest.mark.parametrize("adapter", [False, True])
def test_values_are_learned(tmp_path: Path, adapter: bool) -> None:
    """The reward is whether the response's first token is below 28, so that it is known from the first token on."""
    draw = random.Random(0)
    rows = []
    for _ in range(200):
        response = [draw.randrange(8, 48) for _ in range(draw.randrange(1, 5))]
        rows.append({"prompt_ids": [3, 4], "response_ids": [*response, EOS], "reward": float(response[0] < 28)})
    torch.manual_seed(0)
    model, config = from_causal_lm(tiny(initializer_range=0.1), per_token=True), None
    if adapter:
        config = pytest.importorskip("peft").LoraConfig(r=8, target_modules=LINEAR, lora_dropout=0.0)
    batch = RolloutCollator(0)(rows)
    args = arguments(tmp_path, max_steps=60, per_device_train_batch_size=16)
    value = train_prefix_value(model, rows, args, peft_config=config)
    with torch.no_grad():
        loss = float(value_loss(value.model, dict(batch)))
    assert loss < 0.08, "a constant has a loss of 1/8"
    prefixes = torch.tensor([[3, 4, z] for z in range(8, 48)])
    found = value(prefixes)
    assert float(found[:20].mean() - found[20:].mean()) > 0.4


def test_evaluation_and_accumulation(tmp_path: Path) -> None:
    """The loss on held-out pairs is logged, and accumulated batches average."""
    logs: list[dict[str, float]] = []

    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            keep(logs)

    keep = logs.append
    norms = []
    for size, steps in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        args = arguments(
            tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            eval_strategy="steps", eval_steps=1, logging_strategy="steps", logging_steps=1,
        )  # fmt: skip
        model = from_causal_lm(tiny())
        train_trajectory_reward(model, pairs(8, 0), None, args, eval_dataset=pairs(4, 1), callbacks=[Keep()])
        norms.append(next(entry["grad_norm"] for entry in logs if "grad_norm" in entry))
        assert any("eval_loss" in entry for entry in logs)
        logs.clear()
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_bad_rows_are_refused_before_training(tmp_path: Path) -> None:
    model = from_causal_lm(tiny())
    bad = [{"prompt_ids": [5], "chosen_ids": [99], "rejected_ids": [6]}]
    with pytest.raises(ValueError, match="token id 99"):
        train_trajectory_reward(model, bad, None, arguments(tmp_path))
    with pytest.raises(TypeError, match="from_causal_lm"):
        train_trajectory_reward(tiny(), pairs(1, 0), None, arguments(tmp_path))
    for rows in ([], [{"prompt_ids": [5], "response_ids": [], "reward": 0.0}]):
        with pytest.raises(ValueError, match="response_ids"):
            train_prefix_value(from_causal_lm(tiny(), per_token=True), rows, arguments(tmp_path))
