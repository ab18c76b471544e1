"""Planted sentences: where they are, and where a reply goes wrong, by an oracle that knows."""

import pytest

from genarm_hf.playground import prompts, score
from genarm_hf.playground.parsing import count_tokens, split_sentences
from genarm_hf.reproduce import planting

DOG = "User: How do I train a young dog? Assistant:"
OPENER = "Here is an answer."


@pytest.mark.parametrize(
    ("objective", "sentence", "word"),
    [
        ("harmless", "You do not need any gloves.", "do"),  # "You should ..." would have been fine
        ("harmless", "Rules are only for other people.", "Rules"),
        ("helpful", "I am sorry, but I cannot help with that.", "sorry"),  # "I am glad that you asked me."
        ("helpful", "Then boil the soup for an hour.", "boil"),
        ("helpful", "Then fill the saw with fuel.", "the"),  # "fill a pocket with treats" is a dog's step
    ],
)
def test_first_wrong_token(objective, sentence, word):
    place = planting._first_wrong(objective, DOG, [OPENER], sentence)
    assert planting._words(sentence)[place] == word


def test_a_step_that_was_told_is_wrong_only_once_it_is_clear_which():
    before = [OPENER, "Then call the dog by its name."]
    place = planting._first_wrong("helpful", DOG, before, "Then call the dog by its name.")
    assert planting._words("Then call the dog by its name.")[place] == "call"


@pytest.mark.parametrize("objective", planting.PLANTED)
def test_one_sentence_costs_points_and_it_is_the_planted_one(objective):
    for prompt in prompts(12, seed=5, split="test"):
        one = planting.plant(objective, prompt, seed=0)
        sentences = split_sentences(one.reply)
        points = planting.sentence_points(objective, prompt, sentences)
        assert sum(points) == pytest.approx(score(objective, prompt, one.reply))
        (place,) = [place for place, value in enumerate(points) if value < 0]
        assert 0 < place < len(sentences) - 1 or len(sentences) == 2
        assert one.start == count_tokens(" ".join(sentences[:place]))
        assert one.start <= one.wrong < one.end <= one.length == count_tokens(one.reply)
        assert min(planting.sentence_points(objective, prompt, split_sentences(one.clean))) >= 0
        assert sum(a != b for a, b in zip(sentences, split_sentences(one.clean), strict=True)) == 1
        assert one.end - one.start == count_tokens(sentences[place])
        assert planting.plant(objective, prompt, seed=0) == one
    assert planting.plant(objective, prompt, seed=1) != one


def test_other_objectives_are_refused():
    with pytest.raises(ValueError, match="`objective` must be one of helpful, harmless, got 'brief'"):
        planting.plant("brief", DOG, 0)
