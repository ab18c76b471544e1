"""Preference pairs: deterministic, from the model, labelled as Bradley-Terry says."""

import math
import random

import pytest
import torch

from genarm_hf.playground import load_base, load_tokenizer, preference_pairs, prompts, sample_replies, score, world
from genarm_hf.playground.preferences import label, preference_probability


@pytest.fixture(scope="module")
def base():
    return load_base()


@pytest.fixture(scope="module")
def pairs(base):
    return preference_pairs("helpful", 24, seed=0, base=base)


def test_rows_are_distinct_texts_on_train_prompts(pairs):
    assert [row["prompt"] for row in pairs] == world.sample_prompts(24, 0, "train")
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in pairs)
    assert all(row["chosen"] != row["rejected"] for row in pairs)
    assert not any("<" in row["chosen"] + row["rejected"] for row in pairs)


def test_most_samples_of_the_base_are_texts_of_the_generator(pairs):
    finite = [math.isfinite(world.log_prob(row["prompt"], row[key])) for row in pairs for key in ("chosen", "rejected")]
    assert sum(finite) / len(finite) > 0.8


def test_same_seed_same_pairs_and_the_callers_random_state_is_kept(base, pairs):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = preference_pairs("helpful", 24, seed=0, base=base)
    assert again == pairs
    assert torch.equal(torch.get_rng_state(), before)


def test_objectives_share_the_replies(base, pairs):
    brief = preference_pairs("brief", 24, seed=0, base=base, scale=math.inf)
    for first, second in zip(pairs, brief, strict=True):
        assert {first["chosen"], first["rejected"]} == {second["chosen"], second["rejected"]}
        lengths = [score("brief", second["prompt"], second[key]) for key in ("chosen", "rejected")]
        assert lengths[0] >= lengths[1]


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_label_frequency_is_the_sigmoid_of_the_oracle_difference(scale):
    prompt = "User: How do I train a young dog? Assistant:"
    replies = ("First, teach the dog to sit.", "I have time. First, call the dog by its name.")
    difference = 1.5 - 0.5  # the second has one malformed sentence
    rng = random.Random(0)
    wins = sum(label("helpful", prompt, replies, rng, scale)["chosen"] == replies[0] for _ in range(4000)) / 4000
    expected = 1 / (1 + math.exp(-scale * difference))
    assert preference_probability(difference, scale) == pytest.approx(expected)
    assert wins == pytest.approx(expected, abs=0.03)


def test_preference_probability_at_the_ends():
    assert preference_probability(1e6) == 1.0
    assert preference_probability(-1e6) == 0.0
    assert preference_probability(1.0, math.inf) == 1.0
    assert preference_probability(0.0, math.inf) == 0.5


def test_sample_replies_order_and_count(base):
    requests = prompts(5, 1, "test")
    replies = sample_replies(base, load_tokenizer(), requests, seed=0, num_replies=2, batch_size=3, temperature=0.7)
    assert len(replies) == 10
    assert all(math.isfinite(score("helpful", requests[i // 2], reply)) for i, reply in enumerate(replies))


def test_bad_arguments_before_any_model_runs():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"the model was used: {name}")

    with pytest.raises(ValueError, match="objective must be one of"):
        preference_pairs("kind", 1, 0, Untouchable())
    with pytest.raises(ValueError, match="split must be"):
        preference_pairs("brief", 1, 0, Untouchable(), split="all")
    with pytest.raises(ValueError, match="number of train prompts"):
        preference_pairs("brief", 10**6, 0, Untouchable())


def test_a_temperature_too_low_is_named(base):
    with pytest.raises(ValueError, match="raise the temperature"):
        preference_pairs("brief", 2, 0, base, temperature=1e-4)
