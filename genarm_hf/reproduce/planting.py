"""Replies with one bad sentence, and the token at which it goes wrong, known exactly.

A clean reply of the generator has no sentence that costs points. One sentence in its middle is replaced by a bad one.
The first wrong token is the first after which no sentence of this world can be completed without losing points: before
it, the reply could still have become a good one.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..playground import sample_reply, score
from ..playground.lexicon import FIXED, FRAMES, STEPS_PER_TOPIC, TAILS, TOPICS, Kind
from ..playground.parsing import count_tokens, parse_prompt, sentence_table, split_sentences, step_sentence
from ..playground.world import CONFUSABLE

_DRAWS = 2000
OFF_TOPIC, REFUSAL, RECKLESS = "off-topic step", "refusal", "reckless"
PLANTED = {"helpful": (OFF_TOPIC, REFUSAL), "harmless": (RECKLESS,)}
"""What is planted, by the objective that it offends."""


@dataclass(frozen=True)
class Planted:
    """A reply with a bad sentence.

    Attributes:
        prompt: with its template.
        reply: text.
        clean: the reply before one of its sentences was replaced.
        kind: of the bad sentence.
        start: place of the sentence's first token among those of the reply.
        wrong: place of the first wrong token.
        end: place after the sentence's last token.
        length: tokens of the reply.
    """

    prompt: str
    reply: str
    clean: str
    kind: str
    start: int
    wrong: int
    end: int
    length: int


def plant(objective: str, prompt: str, seed: int) -> Planted:
    """A clean reply to a prompt of the world, with one sentence replaced by a bad one.

    Args:
        objective: `"helpful"` or `"harmless"`.
        prompt: template included.
        seed: equal seeds give equal replies.

    Raises:
        ValueError: the objective is another, or no clean reply was found.
    """
    if objective not in PLANTED:
        raise ValueError(f"`objective` must be one of {', '.join(PLANTED)}, got {objective!r}.")
    rng = random.Random(f"{seed} {objective} {prompt}")
    for _ in range(_DRAWS):
        sentences = split_sentences(sample_reply(prompt, rng))
        place = rng.randrange(1, len(sentences) - 1)
        kind = rng.choice(PLANTED[objective])
        planted = [*sentences[:place], _bad_sentence(kind, prompt, rng), *sentences[place + 1 :]]
        points = sentence_points(objective, prompt, planted)
        if min(sentence_points(objective, prompt, sentences)) >= 0 and _only_negative(points) == place:
            return _planted(objective, prompt, sentences, planted, place, kind)
    raise ValueError(f"No reply to {prompt!r} without a sentence that costs {objective} points in {_DRAWS} draws.")


def sentence_points(objective: str, prompt: str, sentences: Sequence[str]) -> list[float]:
    """What each sentence adds to the oracle's score of a reply, in points.

    Example:
        >>> prompt = "User: How do I train a young dog? Assistant:"
        >>> sentence_points("helpful", prompt, ["Here is an answer.", "Now call the dog by its name."])
        [0.0, 1.5]
    """
    totals = [score(objective, prompt, " ".join(sentences[: n + 1])) for n in range(len(sentences))]
    return [after - before for before, after in zip([0.0, *totals[:-1]], totals, strict=True)]


def _only_negative(points: Sequence[float]) -> int | None:
    places = [place for place, value in enumerate(points) if value < 0]
    return places[0] if len(places) == 1 else None


def _bad_sentence(kind: str, prompt: str, rng: random.Random) -> str:
    if kind != OFF_TOPIC:
        return rng.choice(FIXED[Kind(kind)])
    topic = parse_prompt(prompt) or 0
    other = (topic + rng.choice(CONFUSABLE)) % len(TOPICS)
    return step_sentence(other, rng.randrange(STEPS_PER_TOPIC), rng.choice(FRAMES), rng.choice(TAILS)).text


def _planted(
    objective: str, prompt: str, clean: Sequence[str], sentences: Sequence[str], place: int, kind: str
) -> Planted:
    start = count_tokens(" ".join(sentences[:place]))
    return Planted(
        prompt=prompt,
        reply=" ".join(sentences),
        clean=" ".join(clean),
        kind=kind,
        start=start,
        wrong=start + _first_wrong(objective, prompt, sentences[:place], sentences[place]),
        end=start + count_tokens(sentences[place]),
        length=count_tokens(" ".join(sentences)),
    )


def _first_wrong(objective: str, prompt: str, before: Sequence[str], sentence: str) -> int:
    """Place in the sentence of the first token after which every sentence with this beginning costs points."""
    words = _words(sentence)
    total = score(objective, prompt, " ".join(before))
    for place in range(len(words)):
        completions = _completions().get(words[: place + 1], ())
        if all(score(objective, prompt, " ".join([*before, one])) < total for one in completions):
            return place
    return len(words) - 1


def _words(sentence: str) -> tuple[str, ...]:
    return (*sentence.removesuffix(".").replace(",", " ,").split(), ".")


@lru_cache(maxsize=1)
def _completions() -> dict[tuple[str, ...], list[str]]:
    """Every sentence of the world, under each of its beginnings."""
    found: dict[tuple[str, ...], list[str]] = {}
    for sentence in sentence_table():
        words = _words(sentence)
        for end in range(1, len(words) + 1):
            found.setdefault(words[:end], []).append(sentence)
    return found
