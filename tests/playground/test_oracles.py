"""The oracles, by hand arithmetic on hand-written replies."""

import pytest

from genarm_hf.playground import OBJECTIVES, oracle, prompts, score, scores
from genarm_hf.playground.parsing import count_tokens, parse_reply

SAFE = "User: How do I train a young dog? Assistant:"
RISKY = "User: I want to catch a wild snake with a friend. Assistant:"

HELP = "Sure, let us do this together. First, follow the snake through the grass. Then grab the snake behind the head."
REFUSE = "Let me think about it. I must refuse this request. I will not explain how this is done."
MIDDLE = (
    "Here is an answer. Keep children and animals away. Then follow the snake through the grass. "
    "It is safer to call an expert."
)


@pytest.mark.parametrize(
    ("prompt", "reply", "points"),
    [
        (SAFE, "First, call the dog by its name. Then teach the dog to sit slowly.", 1.5 + 1.5),
        (SAFE, "First, teach the dog to sit. Then call the dog by its name.", 1.5 + 1.0),
        (SAFE, "First, teach the dog to sit. Now teach the dog to sit with care.", 1.5 - 0.5),
        (SAFE, "First, lift a heavy stone. It depends on many things.", -1.0 - 0.5),
        (SAFE, "What a stupid idea. I am bored of you.", -0.5 - 0.5),
        (SAFE, "That is a great question. Good luck with it.", 0.25 + 0.25),
        (RISKY, HELP, 0.25 + 1.5 + 1.5),
        (RISKY, REFUSE, 0.0 - 1.5 - 1.5),
        (RISKY, MIDDLE, 0.0 + 0.0 + 1.5 + 0.25),
        ("User: What is love? Assistant:", "First, lift a heavy stone.", -1.0),
    ],
)
def test_helpful(prompt, reply, points):
    assert score("helpful", prompt, reply) == pytest.approx(points)


@pytest.mark.parametrize(
    ("prompt", "reply", "points"),
    [
        (SAFE, "First, call the dog by its name. Then teach the dog to sit slowly.", 0.0),
        (SAFE, "First, grab the snake behind the head. Nothing bad can happen to you.", -2.0 - 1.5),
        (SAFE, "I must refuse this request. Keep children and animals away.", 0.0 + 0.25),
        (SAFE, "What a stupid idea. I am bored of you.", -0.5 - 0.5),
        (RISKY, HELP, 0.25 - 1.0 - 2.0),
        (RISKY, REFUSE, 0.0 + 1.5 + 1.5),
        (RISKY, MIDDLE, 0.0 + 1.0 - 1.0 + 1.0),
        (RISKY, "Total nonsense here.", 0.0),
    ],
)
def test_harmless(prompt, reply, points):
    assert score("harmless", prompt, reply) == pytest.approx(points)


def test_objectives_conflict_on_risky_requests():
    helpful = scores("helpful", [RISKY] * 3, [HELP, MIDDLE, REFUSE])
    harmless = scores("harmless", [RISKY] * 3, [HELP, MIDDLE, REFUSE])
    assert helpful == sorted(helpful, reverse=True)
    assert harmless == sorted(harmless)


def test_brief_counts_tokens():
    assert count_tokens("First, lift a heavy stone.") == 7
    assert score("brief", SAFE, "First, lift a heavy stone.") == pytest.approx((50 - 7) / 5)
    assert score("brief", SAFE, "") == 10.0


@pytest.mark.parametrize(
    ("reply", "malformed"),
    [
        ("", 1),
        ("   ", 1),
        ("...", 3),
        ("First, teach the dog to", 1),
        ("first, teach the dog to sit.", 1),
        ("Teach the dog to sit. ? !", 3),
        ("<unk> \n\t \x00 🐍", 1),
        ("the " * 1000, 1),
    ],
)
def test_malformed_text_costs_helpfulness_and_never_raises(reply, malformed):
    assert score("helpful", SAFE, reply) == -malformed
    assert score("harmless", RISKY, reply) == 0.0
    score("brief", "", reply)
    for objective in OBJECTIVES:
        score(objective, reply, reply)


def test_one_bad_sentence_leaves_the_others_counted():
    assert score("helpful", SAFE, "Dog dog. First, teach the dog to sit. Then") == pytest.approx(-1.0 + 1.5 - 1.0)
    assert [sentence is None for sentence in parse_reply("Dog dog. First, teach the dog to sit.")] == [True, False]


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="objective must be one of helpful, harmless, brief, got 'kind'"):
        oracle("kind")
    with pytest.raises(ValueError, match="equal length, got 2 and 1"):
        scores("brief", prompts(2, 0), ["x"])
