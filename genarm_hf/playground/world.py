"""The generator of the playground world, with exact log-probabilities.

A reply is an opener, three to seven body sentences, and perhaps a closer. The body is a Markov chain over visible
sentence kinds, whose table depends on whether the request is risky, so every reply has one derivation and
`log_prob` is a plain sum. Chains are sticky (a refusal is followed by refusals, rambling by rambling), which spreads
the quality of replies to one request widely: that spread is what guided decoding can gain.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from .lexicon import (
    ASKS,
    COMPANIONS,
    FIRST_FRAME,
    FIXED,
    FRAMES,
    GREETINGS,
    PROMPT_TEMPLATE,
    STEPS_PER_TOPIC,
    TAILS,
    TIMES,
    TOPICS,
    Kind,
)
from .parsing import Sentence, parse_prompt, parse_reply, step_sentence

Split = Literal["train", "test"]
T = TypeVar("T")

OPENERS = {Kind.POLITE_OPENER: 0.40, Kind.PLAIN_OPENER: 0.35, Kind.RUDE_OPENER: 0.25}
CLOSERS: dict[Kind, dict[Kind | None, float]] = {
    Kind.POLITE_OPENER: {None: 0.35, Kind.POLITE_CLOSER: 0.45, Kind.RUDE_CLOSER: 0.20},
    Kind.PLAIN_OPENER: {None: 0.40, Kind.POLITE_CLOSER: 0.30, Kind.RUDE_CLOSER: 0.30},
    Kind.RUDE_OPENER: {None: 0.30, Kind.POLITE_CLOSER: 0.20, Kind.RUDE_CLOSER: 0.50},
}
# Probability that the body ends after so many sentences.
END_AFTER = {1: 0.0, 2: 0.0, 3: 0.25, 4: 0.30, 5: 0.45, 6: 0.75, 7: 1.0}

# An off-topic step is a step to the parser; only the generator and the oracle, who know the request, tell it apart.
OFF_TOPIC = "off-topic step"
_COLUMNS = (Kind.STEP, OFF_TOPIC, Kind.VAGUE, Kind.WARNING, Kind.RECKLESS, Kind.REFUSAL, Kind.ALTERNATIVE)
BodyKind = Kind | str


def _table(rows: dict[BodyKind, tuple[float, ...]]) -> dict[BodyKind, dict[BodyKind, float]]:
    return {previous: dict(zip(_COLUMNS, row, strict=True)) for previous, row in rows.items()}


# Rows: the previous sentence. Columns: step, off-topic step, vague, warning, reckless, refusal, alternative.
NEXT_ON_SAFE = _table(
    {
        Kind.POLITE_OPENER: (0.26, 0.24, 0.22, 0.08, 0.09, 0.05, 0.06),
        Kind.PLAIN_OPENER: (0.22, 0.26, 0.24, 0.07, 0.10, 0.06, 0.05),
        Kind.RUDE_OPENER: (0.17, 0.25, 0.25, 0.03, 0.16, 0.10, 0.04),
        Kind.STEP: (0.34, 0.22, 0.16, 0.09, 0.10, 0.03, 0.06),
        OFF_TOPIC: (0.18, 0.46, 0.14, 0.05, 0.10, 0.03, 0.04),
        Kind.VAGUE: (0.20, 0.17, 0.38, 0.06, 0.07, 0.07, 0.05),
        Kind.WARNING: (0.32, 0.12, 0.12, 0.26, 0.05, 0.04, 0.09),
        Kind.RECKLESS: (0.24, 0.18, 0.11, 0.05, 0.34, 0.03, 0.05),
        Kind.REFUSAL: (0.06, 0.08, 0.22, 0.10, 0.04, 0.34, 0.16),
        Kind.ALTERNATIVE: (0.18, 0.12, 0.14, 0.14, 0.05, 0.09, 0.28),
    }
)
NEXT_ON_RISKY = _table(
    {
        Kind.POLITE_OPENER: (0.21, 0.15, 0.16, 0.14, 0.09, 0.14, 0.11),
        Kind.PLAIN_OPENER: (0.20, 0.17, 0.16, 0.11, 0.12, 0.15, 0.09),
        Kind.RUDE_OPENER: (0.15, 0.20, 0.20, 0.05, 0.16, 0.19, 0.05),
        Kind.STEP: (0.33, 0.17, 0.13, 0.13, 0.11, 0.06, 0.07),
        OFF_TOPIC: (0.18, 0.42, 0.14, 0.07, 0.09, 0.06, 0.04),
        Kind.VAGUE: (0.18, 0.14, 0.36, 0.09, 0.07, 0.09, 0.07),
        Kind.WARNING: (0.24, 0.08, 0.10, 0.28, 0.05, 0.11, 0.14),
        Kind.RECKLESS: (0.26, 0.14, 0.11, 0.06, 0.34, 0.04, 0.05),
        Kind.REFUSAL: (0.06, 0.06, 0.14, 0.14, 0.04, 0.38, 0.18),
        Kind.ALTERNATIVE: (0.12, 0.08, 0.12, 0.18, 0.04, 0.14, 0.32),
    }
)

# The likeliest replies must not be the best ones, or sharpening the model would pass for aligning it: after a step,
# telling it again is likelier than telling the one after it, and off-topic steps are those of two confusable topics.
REPEAT, NEXT_STEP = 0.30, 0.25  # the other steps share the rest
CONFUSABLE = (5, 10)  # the off-topic topics, counted from the request's own
FIRST_FRAME_PROBABILITY = 0.5
TAIL_PROBABILITIES = dict(zip(TAILS, (0.34, 0.22, 0.22, 0.22), strict=True))


@dataclass(frozen=True)
class State:
    """What the next body sentence depends on.

    Attributes:
        topic: Index of the request's topic.
        previous: Kind of the sentence before (`OFF_TOPIC` for a step of another topic).
        last_step: The last step of the request's own topic told so far, -1 for none.
        told: Number of body sentences so far.
    """

    topic: int
    previous: BodyKind
    last_step: int = -1
    told: int = 0

    def kind_of(self, sentence: Sentence) -> BodyKind:
        """The kind of a sentence in a reply to this request."""
        return OFF_TOPIC if sentence.kind is Kind.STEP and sentence.topic != self.topic else sentence.kind

    def after(self, sentence: Sentence) -> "State":
        """The state once this sentence was told."""
        kind = self.kind_of(sentence)
        last_step = sentence.step if kind is Kind.STEP else self.last_step
        return State(self.topic, kind, last_step, self.told + 1)

    def next_kinds(self) -> dict[BodyKind, float]:
        """Probability of each kind of sentence to come."""
        return (NEXT_ON_RISKY if TOPICS[self.topic].risky else NEXT_ON_SAFE)[self.previous]


def _step_probabilities(last_step: int) -> dict[int, float]:
    """Probability of each step of the request's topic; all alike while none was told."""
    if last_step < 0:
        return dict.fromkeys(range(STEPS_PER_TOPIC), 1 / STEPS_PER_TOPIC)
    likely = {last_step: REPEAT} | ({last_step + 1: NEXT_STEP} if last_step + 1 < STEPS_PER_TOPIC else {})
    others = (1 - sum(likely.values())) / (STEPS_PER_TOPIC - len(likely))
    return {step: likely.get(step, others) for step in range(STEPS_PER_TOPIC)}


_STEPS_AFTER = {last_step: _step_probabilities(last_step) for last_step in range(-1, STEPS_PER_TOPIC)}


def _off_topics(topic: int) -> list[int]:
    return [(topic + offset) % len(TOPICS) for offset in CONFUSABLE]


def _frame_probabilities(told: int) -> dict[str, float]:
    share = (1 - FIRST_FRAME_PROBABILITY if told == 0 else 1.0) / len(FRAMES)
    return {FIRST_FRAME: FIRST_FRAME_PROBABILITY if told == 0 else 0.0, **dict.fromkeys(FRAMES, share)}


_FRAMES_BY_TOLD = (_frame_probabilities(0), _frame_probabilities(1))


def _off_topic_probability(state: State, sentence: Sentence) -> float:
    return (sentence.topic in _off_topics(state.topic)) / (len(CONFUSABLE) * STEPS_PER_TOPIC)


def sentence_probability(state: State, sentence: Sentence) -> float:
    """Probability that this is the next body sentence (the body ending is not part of it)."""
    kind = state.kind_of(sentence)
    of_kind = state.next_kinds().get(kind, 0.0)
    if sentence.kind is not Kind.STEP:
        return of_kind / len(FIXED[sentence.kind])
    which = (
        _off_topic_probability(state, sentence) if kind is OFF_TOPIC else _STEPS_AFTER[state.last_step][sentence.step]
    )
    frame = _FRAMES_BY_TOLD[min(state.told, 1)][sentence.frame]
    return of_kind * which * frame * TAIL_PROBABILITIES[sentence.tail]


def _pick(probabilities: dict[T, float], rng: random.Random) -> T:
    point = rng.random()
    for value, probability in probabilities.items():
        point -= probability
        if point < 0:
            return value
    return value  # rounding: the probabilities summed to a hair less than the point


def _sample_step(state: State, kind: BodyKind, rng: random.Random) -> Sentence:
    if kind is OFF_TOPIC:
        topic = rng.choice(_off_topics(state.topic))
        step = rng.randrange(STEPS_PER_TOPIC)
    else:
        topic = state.topic
        step = _pick(_STEPS_AFTER[state.last_step], rng)
    frame = _pick(_FRAMES_BY_TOLD[min(state.told, 1)], rng)
    return step_sentence(topic, step, frame, _pick(TAIL_PROBABILITIES, rng))


def _sample_sentence(state: State, rng: random.Random) -> Sentence:
    kind = _pick(state.next_kinds(), rng)
    if isinstance(kind, str) or kind is Kind.STEP:
        return _sample_step(state, kind, rng)
    return Sentence(rng.choice(FIXED[kind]), kind)


def _topic_of(prompt: str) -> int:
    topic = parse_prompt(prompt)
    if topic is None:
        raise ValueError(f"prompt must contain a request of the playground world, got {prompt!r}; see sample_prompts()")
    return topic


def _sample_sentences(topic: int, rng: random.Random) -> Iterator[str]:
    opener = _pick(OPENERS, rng)
    yield rng.choice(FIXED[opener])
    state = State(topic, opener)
    while not (state.told and rng.random() < END_AFTER[state.told]):
        sentence = _sample_sentence(state, rng)
        yield sentence.text
        state = state.after(sentence)
    closer = _pick(CLOSERS[opener], rng)
    if closer is not None:
        yield rng.choice(FIXED[closer])


def sample_reply(prompt: str, rng: random.Random) -> str:
    """Draw one reply of the generator.

    Args:
        prompt: A prompt of `sample_prompts`, or any text that contains a request of this world.
        rng: Source of randomness; equal states give equal replies.

    Raises:
        ValueError: if the prompt contains no request of this world.
    """
    return " ".join(_sample_sentences(_topic_of(prompt), rng))


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def log_prob(prompt: str, reply: str) -> float:
    """Exact log-probability of a reply under the generator, its end included, in nats; -inf for what it cannot say.

    Raises:
        ValueError: if the prompt contains no request of this world.

    Example:
        >>> prompt = PROMPT_TEMPLATE.format(prompt="How do I catch a wild snake?")
        >>> log_prob(prompt, "Bananas are yellow.")
        -inf
        >>> reply = sample_reply(prompt, random.Random(0))
        >>> log_prob(prompt, reply) > -200
        True
    """
    topic = _topic_of(prompt)
    sentences = parse_reply(reply)
    parsed = [sentence for sentence in sentences if sentence is not None]
    if len(parsed) < len(sentences) or reply != " ".join(sentence.text for sentence in parsed):
        return -math.inf
    return _log_prob_of_sentences(topic, parsed)


def _log_prob_of_sentences(topic: int, sentences: list[Sentence]) -> float:
    if not sentences or sentences[0].kind not in OPENERS:
        return -math.inf
    opener = sentences[0].kind
    closes = sentences[-1].kind in (Kind.POLITE_CLOSER, Kind.RUDE_CLOSER)
    closer = sentences[-1].kind if closes else None
    body = sentences[1 : -1 if closes else None]
    if not 1 <= len(body) <= max(END_AFTER):
        return -math.inf
    total = _log(OPENERS[opener] / len(FIXED[opener])) + _log(END_AFTER[len(body)])
    state = State(topic, opener)
    for sentence in body:
        if state.kind_of(sentence) not in state.next_kinds():  # an opener or a closer in the middle
            return -math.inf
        going_on = 1 - END_AFTER[state.told] if state.told else 1.0
        total += _log(going_on * sentence_probability(state, sentence))
        state = state.after(sentence)
    return total + _log(CLOSERS[opener][closer] / (len(FIXED[closer]) if closer else 1))


def _prompt_at(index: int) -> str:
    """The prompt of a number below `NUM_PROMPTS`: its digits are topic, ask, companion, time and greeting."""
    index, topic = divmod(index, len(TOPICS))
    index, ask = divmod(index, len(ASKS))
    index, companion = divmod(index, len(COMPANIONS))
    greeting, time = divmod(index, len(TIMES))
    goal = TOPICS[topic].goal + COMPANIONS[companion] + TIMES[time]
    return PROMPT_TEMPLATE.format(prompt=GREETINGS[greeting] + ASKS[ask].format(goal=goal))


NUM_PROMPTS = len(TOPICS) * len(ASKS) * len(COMPANIONS) * len(TIMES) * len(GREETINGS)


def all_prompts() -> Iterator[str]:
    """Every prompt of the world, both splits."""
    return map(_prompt_at, range(NUM_PROMPTS))


def _is_test(index: int) -> bool:
    """One prompt in eight is held out, picked by a multiplicative hash so that it does not follow the digits."""
    return (index * 2654435761 % 2**32) >> 29 == 0


def sample_prompts(n: int, seed: int, split: Split = "train") -> list[str]:
    """Draw `n` distinct prompts, template included; no prompt is in both splits.

    Args:
        n: How many.
        seed: Equal seeds give equal prompts.
        split: "train" (7 of 8 of all prompts) or "test" (the held-out rest).

    Raises:
        ValueError: if the split is unknown or has fewer than `n` prompts.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    pool = [index for index in range(NUM_PROMPTS) if _is_test(index) == (split == "test")]
    if not 0 <= n <= len(pool):
        raise ValueError(f"n must be between 0 and {len(pool)}, the number of {split} prompts, got {n}")
    return [_prompt_at(index) for index in random.Random(seed).sample(pool, n)]
