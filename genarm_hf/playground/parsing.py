"""Text to meaning: which sentences a reply is made of, and which topic a request is about.

The world has a few thousand possible sentences, so the parser is a table of all of them. That makes it exact, and makes
every text parsable: what is not in the table is a malformed sentence (`None`).
"""

import re
from functools import lru_cache
from typing import NamedTuple

from .lexicon import FIRST_FRAME, FIXED, FRAMES, TAILS, TOPICS, Kind


class Sentence(NamedTuple):
    """One sentence: its kind, and for a step which topic, step, frame and tail it has."""

    text: str
    kind: Kind
    topic: int = -1
    step: int = -1
    frame: str = ""
    tail: str = ""


# A sentence runs to the next full stop, question mark or exclamation mark; the rest of the text is an unfinished one.
_SENTENCE = re.compile(r"[^.!?]*[.!?]|[^.!?]+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences, with their final punctuation and without surrounding spaces."""
    return [piece for match in _SENTENCE.findall(text) if (piece := match.strip())]


def count_tokens(text: str) -> int:
    """Number of words and punctuation marks: the tokens of the playground tokenizer, end of text not counted."""
    return len(_TOKEN.findall(text))


def step_sentence(topic: int, step: int, frame: str, tail: str) -> Sentence:
    """The sentence that tells one step of a topic."""
    return Sentence(f"{frame} {TOPICS[topic].steps[step]}{tail}.", Kind.STEP, topic, step, frame, tail)


def _all_sentences() -> list[Sentence]:
    fixed = [Sentence(text, kind) for kind, texts in FIXED.items() for text in texts]
    steps = [
        step_sentence(topic, step, frame, tail)
        for topic, entry in enumerate(TOPICS)
        for step in range(len(entry.steps))
        for frame in (FIRST_FRAME, *FRAMES)
        for tail in TAILS
    ]
    return fixed + steps


@lru_cache(maxsize=1)
def sentence_table() -> dict[str, Sentence]:
    """Every sentence of the world by its text.

    Raises:
        ValueError: if two derivations give the same text; log-probabilities would then be ambiguous.
    """
    sentences = _all_sentences()
    table = {sentence.text: sentence for sentence in sentences}
    if len(table) != len(sentences):
        raise ValueError(f"the lexicon is ambiguous: {len(sentences)} derivations give only {len(table)} texts")
    return table


def parse_reply(text: str) -> list[Sentence | None]:
    """The sentences of a reply in order; `None` stands for a malformed one. Never raises on a string."""
    table = sentence_table()
    return [table.get(piece) for piece in split_sentences(text)]


def parse_prompt(prompt: str) -> int | None:
    """The index in `TOPICS` a request is about, or None for a text that asks for nothing in this world."""
    return next((index for index, topic in enumerate(TOPICS) if topic.goal in prompt), None)
