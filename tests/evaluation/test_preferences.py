"""Rewards of held-out pairs: what `score` gives, in the order of the data, whatever the batches."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from genarm_hf import AutoregressiveRewardModel
from genarm_hf.evaluation.preferences import evaluate_preferences, pair_logprobs
from genarm_hf.training.data import PairTokenizer, tokenize_pairs

from ..conftest import VOCAB, tiny
from ..reward_models import PEFT_WARNINGS, assert_same_state, lora, state_of, word_tokenizer

pytestmark = PEFT_WARNINGS

TOKENIZER = word_tokenizer()
WORDS = [f"w{i}" for i in range(4, VOCAB)]


def pairs(n: int = 12, seed: int = 0) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    most = {"prompt": 12, "chosen": 9, "rejected": 9}
    return [{name: " ".join(rng.choice(WORDS, size=rng.integers(1, most[name]))) for name in most} for _ in range(n)]


def scores(arm: AutoregressiveRewardModel, rows: list[dict[str, str]]) -> np.ndarray:
    prompts = [row["prompt"] for row in rows]
    sides = [arm.score(TOKENIZER, prompts, [row[side] for row in rows]) for side in ("chosen", "rejected")]
    return torch.stack(sides, 1).numpy()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma"])
def test_rewards_are_those_of_score(kind):
    arm = AutoregressiveRewardModel.from_backbone(tiny(kind, seed=1), beta=0.2)
    rows = pairs()
    report = evaluate_preferences(arm, rows, TOKENIZER)
    expected = scores(arm, rows)
    assert report.rewards == pytest.approx(expected, abs=1e-3)
    above = (expected[:, 0] > expected[:, 1]).mean()
    assert report.summary.accuracy.value == pytest.approx(above) and report.summary.beta == 0.2
    assert report.summary.margins.mean == pytest.approx((expected[:, 0] - expected[:, 1]).mean(), abs=1e-3)
    # one more than its words: the end of sequence
    assert report.lengths.tolist() == [[len(row[side].split()) + 1 for side in ("chosen", "rejected")] for row in rows]


@pytest.mark.parametrize("kind", ["plain causal LM", "adapter", "reward model around an adapter"])
def test_any_causal_lm_is_a_reward_model(kind):
    model: Any = tiny("llama", seed=2)
    if kind != "plain causal LM":
        model = lora(model)
    if kind == "reward model around an adapter":
        model = AutoregressiveRewardModel.from_backbone(model)
    state, rows = state_of(model), pairs(4)
    report = evaluate_preferences(model, rows, TOKENIZER, beta=0.1)
    arm = model if isinstance(model, AutoregressiveRewardModel) else AutoregressiveRewardModel.from_backbone(model)
    assert report.rewards == pytest.approx(scores(arm, rows), abs=1e-3)
    assert_same_state(model, state)


@pytest.mark.parametrize("most", [1, 40, 100, 10**6])
def test_batches_do_not_matter(most):
    arm, rows = tiny("llama", seed=1), pairs(15)
    seen: list[int] = []
    found = evaluate_preferences(arm, rows, TOKENIZER, max_tokens_per_batch=most, progress=seen.append)
    assert found.rewards == pytest.approx(evaluate_preferences(arm, rows, TOKENIZER).rewards, abs=1e-4)
    assert sum(seen) == 15 and (len(seen) == 15 if most == 1 else len(seen) == 1 if most == 10**6 else len(seen) > 1)


def test_forwards_are_within_the_budget(monkeypatch):
    sizes: list[int] = []
    arm = AutoregressiveRewardModel.from_backbone(tiny("llama"))
    body = arm.causal_lm.base_model
    plain = body.forward
    monkeypatch.setattr(
        body, "forward", lambda input_ids, **rest: (sizes.append(input_ids.numel()), plain(input_ids, **rest))[1]
    )
    pair_logprobs(arm, tokenize_pairs(pairs(30), PairTokenizer(TOKENIZER)), max_tokens_per_batch=100)
    assert max(sizes) <= 100 < sum(sizes[4:])  # the first are short trials of what the model can do


def test_implicit_rewards_are_log_ratios():
    tuned, reference, rows = tiny("llama", seed=1), tiny("llama", seed=2), pairs()
    seen: list[int] = []
    report = evaluate_preferences(tuned, rows, TOKENIZER, reference=reference, beta=0.3, progress=seen.append)
    one, other = (scores(AutoregressiveRewardModel.from_backbone(model), rows) for model in (tuned, reference))
    assert report.rewards == pytest.approx(one - other, abs=1e-3)
    assert report.summary.beta == 0.3 and sum(seen) == 2 * len(rows)


def test_a_model_beside_itself_is_undecided():
    model = tiny("llama")
    report = evaluate_preferences(model, pairs(), TOKENIZER, reference=model, beta=0.1)
    assert not report.rewards.any() and report.summary.accuracy.value == 0.5
    assert report.summary.length_correlation is None and report.summary.calibration.error == 0


def test_rewards_per_token():
    arm, rows = tiny("llama"), pairs(5)
    report = evaluate_preferences(arm, rows, TOKENIZER, length_normalize=True)
    assert (report.rewards * report.lengths) == pytest.approx(evaluate_preferences(arm, rows, TOKENIZER).rewards)


def test_the_models_own_template_is_used():
    arm = AutoregressiveRewardModel.from_backbone(tiny("llama", seed=1), prompt_template="w9 {prompt} w10")
    rows = pairs(4)
    assert evaluate_preferences(arm, rows, TOKENIZER).rewards == pytest.approx(scores(arm, rows), abs=1e-3)


def test_beta_is_the_models_unless_given():
    arm = AutoregressiveRewardModel.from_backbone(tiny("llama"), beta=0.2)
    assert evaluate_preferences(arm, pairs(2), TOKENIZER).summary.beta == 0.2
    assert evaluate_preferences(arm, pairs(2), TOKENIZER, beta=1.0).summary.beta == 1.0
    assert evaluate_preferences(arm.backbone, pairs(2), TOKENIZER).summary.calibration is None


def test_dropout_is_off_and_training_goes_on_afterwards():
    model = tiny("gpt2", resid_pdrop=0.5).train()
    one, other = (evaluate_preferences(model, pairs(3), TOKENIZER).rewards for _ in range(2))
    assert (one == other).all() and model.training and all(not p.grad_fn for p in model.parameters())


def test_a_dataset_and_a_list_are_the_same():
    datasets = pytest.importorskip("datasets")
    model, rows = tiny("llama"), pairs(6)
    found = evaluate_preferences(model, datasets.Dataset.from_list(rows), TOKENIZER)
    assert found.rewards == pytest.approx(evaluate_preferences(model, rows, TOKENIZER).rewards)


def test_long_prompts_lose_their_start_and_long_responses_are_left_out():
    model = tiny("llama", max_position_embeddings=16)
    rows = [*pairs(3), {"prompt": "w5", "chosen": "w6 " * 20, "rejected": "w7"}, *pairs(2, seed=1)]
    report = evaluate_preferences(model, rows, TOKENIZER, drop_overlong=True)
    assert (report.dropped, len(report.rewards)) == (1, 5)
    assert report.to_dict()["dropped"] == 1
    with pytest.raises(ValueError, match="Row 3 of `dataset` has a response of 21 tokens"):
        evaluate_preferences(model, rows, TOKENIZER)


def test_a_report_survives_json():
    report = evaluate_preferences(tiny("llama"), pairs(), TOKENIZER, beta=0.1).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report and report["pairs"] == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "`max_length` must leave room"),
        ({"max_tokens_per_batch": 0}, "`max_tokens_per_batch` must be at least 1, got 0"),
        ({"beta": -1.0}, "`beta` must be a positive number"),
        ({"reference": "small"}, "token id 47, and the model knows only ids below 40"),
    ],
)
def test_bad_options(options, message, monkeypatch):
    monkeypatch.setattr(AutoregressiveRewardModel, "token_rewards", None)  # nothing is run before the error
    rows = [{"prompt": "w5", "chosen": "w47", "rejected": "w6"}]
    if "reference" in options:
        options = {"reference": tiny("llama", vocab_size=40)}
    with pytest.raises(ValueError, match=message):
        evaluate_preferences(tiny("llama"), rows, TOKENIZER, **options)


def test_no_pairs():
    with pytest.raises(ValueError, match="`dataset` is empty"):
        evaluate_preferences(tiny("llama"), [], TOKENIZER)


def test_no_causal_lm():
    with pytest.raises(TypeError):
        evaluate_preferences(torch.nn.Linear(1, 1), pairs(1), TOKENIZER)
