"""The generator: one derivation a text, probabilities that sum to one, held-out prompts, reply lengths."""

import math
import random

import pytest

from genarm_hf.playground import lexicon, world
from genarm_hf.playground.lexicon import FIXED, TOPICS, Kind
from genarm_hf.playground.parsing import count_tokens, parse_prompt, parse_reply, sentence_table

SAFE_PROMPT = "User: How do I train a young dog? Assistant:"
RISKY_PROMPT = "User: How do I catch a wild snake? Assistant:"


def replies(n, seed=0, split="train"):
    rng = random.Random(seed)
    return [(prompt, world.sample_reply(prompt, rng)) for prompt in world.sample_prompts(n, seed, split)]


def test_lexicon_is_complete_and_unambiguous():
    assert len(sentence_table()) == sum(map(len, FIXED.values())) + len(TOPICS) * 5 * 7 * 4
    assert all(len(topic.steps) == len(topic.dangers) == lexicon.STEPS_PER_TOPIC for topic in TOPICS)
    assert sum(topic.risky for topic in TOPICS) == len(TOPICS) // 2


def test_every_row_of_the_chain_is_a_distribution():
    rows = [world.OPENERS, world.TAIL_PROBABILITIES, *world._FRAMES_BY_TOLD, *world.CLOSERS.values()]
    for row in [*rows, *world.NEXT_ON_SAFE.values(), *world.NEXT_ON_RISKY.values()]:
        assert sum(row.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("topic", [0, len(TOPICS) - 1])
@pytest.mark.parametrize(("previous", "last_step", "told"), [(Kind.PLAIN_OPENER, -1, 0), (Kind.STEP, 4, 2)])
def test_next_sentence_probabilities_sum_to_one(topic, previous, last_step, told):
    state = world.State(topic, previous, last_step, told)
    body = [s for s in sentence_table().values() if "opener" not in s.kind.value and "closer" not in s.kind.value]
    assert sum(world.sentence_probability(state, sentence) for sentence in body) == pytest.approx(1.0)


def test_log_prob_is_the_sum_of_the_derivation():
    reply = "Let me think about it. First, follow the snake through the grass. Nothing bad can happen to you. "
    reply += "Then grab the snake behind the head slowly. Do not ask me again."
    probabilities = [
        0.35 / 6,  # this plain opener
        0.20 * (1 / 5) * 0.5 * 0.34,  # a step, none told yet, "First,", no tail
        0.11 / 7,  # reckless after a step
        0.26 * 0.25 * (1 / 6) * 0.22,  # a step, the next one, "Then", " slowly"
        0.25,  # the body ends after three sentences
        0.30 / 4,  # this rude closer
    ]
    assert world.log_prob(RISKY_PROMPT, reply) == pytest.approx(sum(map(math.log, probabilities)))


def test_log_prob_agrees_with_sampling_frequencies():
    """Among sampled replies, each opener and each number of body sentences is as frequent as its probability."""
    sampled = [parse_reply(reply) for _, reply in replies(4000)]
    polite = sum(sentences[0].kind is Kind.POLITE_OPENER for sentences in sampled) / len(sampled)
    assert polite == pytest.approx(world.OPENERS[Kind.POLITE_OPENER], abs=0.03)
    bodies = [sum("opener" not in s.kind.value and "closer" not in s.kind.value for s in row) for row in sampled]
    assert bodies.count(3) / len(bodies) == pytest.approx(0.25, abs=0.03)
    assert set(bodies) == {3, 4, 5, 6, 7}


def test_sampled_replies_have_finite_log_prob_and_the_right_length():
    pairs = replies(1000, split="test")
    lengths = [count_tokens(reply) for _, reply in pairs]
    assert all(math.isfinite(world.log_prob(*pair)) for pair in pairs)
    assert sum(20 <= length <= 80 for length in lengths) >= 990


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Let me think about it.",
        "Bananas are yellow.",
        "Let me think about it. Good luck with it. It depends on many things. Nothing bad can happen to you.",
        "Let me think about it.  It depends on many things. It depends on many things. It depends on many things.",
        "It depends on many things. It depends on many things. It depends on many things.",
        "Let me think about it. " + " ".join(["It depends on many things."] * 8),
        "Let me think about it. It depends on many things. First, add a spoon of salt. It depends on many things.",
        "Let me think about it. First, pack a small bag. It depends on many things. It depends on many things.",
    ],
)
def test_log_prob_of_what_the_generator_cannot_say(reply):
    assert world.log_prob(SAFE_PROMPT, reply) == -math.inf


def test_unknown_request_is_an_error():
    with pytest.raises(ValueError, match="prompt must contain a request"):
        world.log_prob("User: What is love? Assistant:", "It depends on many things.")
    with pytest.raises(ValueError, match="prompt must contain a request"):
        world.sample_reply("User: What is love? Assistant:", random.Random(0))


def test_splits_are_disjoint_and_cover_all_prompts():
    everything = list(world.all_prompts())
    test = {prompt for index, prompt in enumerate(everything) if world._is_test(index)}
    train = set(everything) - test
    assert len(set(everything)) == world.NUM_PROMPTS == len(train) + len(test)
    assert set(world.sample_prompts(2000, 0, "test")) <= test
    assert set(world.sample_prompts(2000, 0, "train")) <= train
    assert len(test) / len(everything) == pytest.approx(1 / 8, rel=0.02)


def test_prompts_are_distinct_deterministic_and_on_all_topics():
    prompts = world.sample_prompts(1000, 3)
    assert len(set(prompts)) == 1000
    assert prompts == world.sample_prompts(1000, 3) != world.sample_prompts(1000, 4)
    assert {parse_prompt(prompt) for prompt in prompts} == set(range(len(TOPICS)))
    assert replies(20, seed=5) == replies(20, seed=5)


def test_bad_split_or_size():
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'valid'"):
        world.sample_prompts(1, 0, "valid")
    with pytest.raises(ValueError, match="number of test prompts, got 50000"):
        world.sample_prompts(50_000, 0, "test")
