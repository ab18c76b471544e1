"""What decoders refuse, before any model runs."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from genarm_hf import baselines

from ..conftest import prompts, tiny
from .reference import classifier

DECODERS: dict[str, dict[str, Any]] = {
    "args_generate": {},
    "best_of_n_generate": {},
    "blockwise_generate": {},
    "cards_generate": {"target_reward": 1.0},
    "transfer_q_generate": {},
    "value_guided_generate": {},
}


@pytest.fixture
def run() -> Callable[..., Any]:
    base, reward = tiny(), classifier()
    for model in (base, reward.model):
        model.register_forward_pre_hook(lambda module, inputs: pytest.fail("a model ran before the input was checked"))

    def call(name: str, **changes: Any) -> Any:
        arguments: dict[str, Any] = {"model": base, "reward": reward, **prompts(2, 4), "max_new_tokens": 3}
        arguments |= DECODERS[name] | changes
        positional = [arguments.pop(key) for key in ("model", "reward", "input_ids")]
        return getattr(baselines, name)(*positional, **arguments)

    return call


@pytest.mark.parametrize("name", DECODERS)
def test_inputs_that_all_refuse(name: str, run: Callable[..., Any]) -> None:
    ids = prompts(2, 4)["input_ids"]
    for changes, error, message in (
        ({"max_new_tokens": 0}, ValueError, "`max_new_tokens` must be an integer of at least 1, got 0"),
        ({"input_ids": ids[0]}, ValueError, r"shape \(batch, length\)"),
        ({"input_ids": ids[:, :0], "attention_mask": None}, ValueError, r"shape \(batch, length\)"),
        ({"input_ids": ids.float()}, TypeError, "integer ids"),
        ({"input_ids": ids + 48}, ValueError, "below the model's 48 ids"),
        ({"attention_mask": torch.ones(2, 3)}, ValueError, "`attention_mask`"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 0]] * 2)}, ValueError, "padded on the left"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1]] * 2)}, ValueError, "padded on the left"),
        ({"eos_token_id": 48}, ValueError, "`eos_token_id` must lie"),
        ({"pad_token_id": -1}, ValueError, "`pad_token_id` must lie"),
        ({"model": tiny("t5")}, TypeError, "decoder-only"),
        ({"model": tiny(eos_token_id=None)}, ValueError, "`eos_token_id` must say"),
        ({"reward": 3}, TypeError, "callable"),
        ({"reward": classifier().model}, TypeError, "TrajectoryReward"),
        ({"reward": classifier(vocab_size=400)}, ValueError, "400 ids and `model` one of 48"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be above 0"),
        ({"temperature": math.nan}, ValueError, "`temperature` must be a finite number"),
    ):
        with pytest.raises(error, match=message):
            run(name, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("args_generate", {"k": 0}, "`k`"),
        ("args_generate", {"w": math.inf}, "`w` must be a finite number, got inf"),
        ("best_of_n_generate", {"n": 0}, "`n`"),
        ("best_of_n_generate", {"top_k": 0}, "`top_k`"),
        ("blockwise_generate", {"k": 1.5}, "`k`"),
        ("blockwise_generate", {"block_size": 0}, "`block_size`"),
        ("cards_generate", {"target_reward": math.nan}, "`target_reward`"),
        ("cards_generate", {"alpha": 1.5}, "`alpha`"),
        ("cards_generate", {"beta": 0.0}, "`beta`"),
        ("cards_generate", {"entropy_threshold": 0.0}, "`entropy_threshold`"),
        ("cards_generate", {"min_segment": 5, "max_segment": 4}, "`min_segment`"),
        ("cards_generate", {"max_rejections": -1}, "`max_rejections`"),
        ("transfer_q_generate", {"k": -1}, "`k`"),
        ("transfer_q_generate", {"alpha": 0.0}, "`alpha` must be above 0"),
        ("transfer_q_generate", {"num_rollouts": 0}, "`num_rollouts`"),
        ("transfer_q_generate", {"rollout_tokens": 0}, "`rollout_tokens`"),
        ("value_guided_generate", {"k": 0}, "`k`"),
        ("value_guided_generate", {"weight": math.nan}, "`weight`"),
    ],
)
def test_knobs(name: str, changes: dict[str, Any], message: str, run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=message):
        run(name, **changes)


def test_a_policy_of_another_vocabulary(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="`policy` has a vocabulary of 400"):
        run("transfer_q_generate", policy=tiny(vocab_size=400))


def test_rewards_that_are_none() -> None:
    base, prompt = tiny(), prompts(2, 4)
    with pytest.raises(ValueError, match="one number for each"):
        baselines.best_of_n_generate(base, lambda ids, mask: torch.zeros(3), **prompt, max_new_tokens=2)
    with pytest.raises(ValueError, match="finite"):
        baselines.args_generate(base, lambda ids, mask: torch.full((len(ids),), math.nan), **prompt, max_new_tokens=2)


def test_every_exported_name_is_there() -> None:
    for name in baselines.__all__:
        assert callable(getattr(baselines, name)), name
    assert set(baselines.__all__) <= set(dir(baselines))
    with pytest.raises(AttributeError, match="no attribute"):
        baselines.nothing  # noqa: B018
