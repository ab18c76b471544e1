"""Replies at several strengths side by side, as they are written, under sliders that may move meanwhile.

All replies are rows of one batch with an alpha each. Alpha is a callable, so whoever moves a slider changes the very
next token: the paper's trade-off at test time, in real time.
"""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from .ensemble import Asked, Ensemble, threads

STRENGTHS = (0.0, 1.0, 2.0)  # of the sliders: the base alone, as they stand, twice as strong
# torch has one stream of random numbers a process, and seeds are to mean something
_ONE_AT_A_TIME = threading.Lock()


@dataclass
class Dials:
    """Where the sliders stand, one number a reward model. Whatever is being written reads them at every token."""

    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Manner:
    """How to write.

    Attributes:
        temperature: of sampling; 0 takes the likeliest token.
        max_new_tokens: at most so many.
        seed: of sampling.
        pace: tokens a second at most, so that eyes and hands can follow; 0: as fast as it goes.
    """

    temperature: float = 1.0
    max_new_tokens: int = 96
    seed: int = 0
    pace: float = 10.0

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `generate()`. Nothing is cut off: samples follow the guided distribution exactly."""
        if self.temperature == 0:
            return {"do_sample": False, "max_new_tokens": self.max_new_tokens}
        full = {"do_sample": True, "top_k": 0, "top_p": 1.0}
        return full | {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}


@dataclass
class Reply:
    """One reply, as far as it is written.

    Attributes:
        strength: times the sliders.
        ids: of its tokens, the end of text included.
        pieces: the same as text; they add up to the reply.
        alphas: guidance strengths `(arms,)` that each token was chosen with.
        ended: whether the end of text was reached.
    """

    strength: float
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    alphas: list[tuple[float, ...]] = field(default_factory=list)
    ended: bool = False

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(self.pieces)


def write(
    ensemble: Ensemble, asked: Asked, dials: Dials, manner: Manner, strengths: Sequence[float] = STRENGTHS
) -> Generator[list[Reply], None, None]:
    """Write a reply at each strength, and yield all of them after every token.

    Whoever stops reading stops the writing.

    Args:
        ensemble: who writes.
        asked: what is answered.
        dials: read anew for every token.
        manner: how.
        strengths: a reply has alpha `strength * dials`.

    Raises:
        ValueError: as `generate()` does, for a request that is too long, say.
    """
    replies = [Reply(strength) for strength in strengths]
    relay = _Relay(dials, strengths, manner.pace)
    writer = threading.Thread(target=_generate, args=(ensemble, asked, manner, relay, len(replies)), daemon=True)
    writer.start()
    try:
        for tokens, values in relay:
            _note(replies, tokens, values, ensemble)
            yield replies
    finally:
        relay.stopped = True
        writer.join()


class _Relay:
    """Between the thread that generates and the one that shows: alpha one way, tokens the other."""

    def __init__(self, dials: Dials, strengths: Sequence[float], pace: float) -> None:
        self.stopped = False
        self._dials, self._strengths = dials, torch.tensor(strengths)[:, None]
        self._pause = 1 / pace if pace else 0.0
        self._values: tuple[float, ...] = dials.values
        self._arrived: SimpleQueue[Any] = SimpleQueue()
        self._prompt_seen, self._last = False, 0.0

    def alpha(self, step: int) -> Tensor:
        """Alpha `(strengths, arms)` of the next token: where the sliders stand now."""
        self._values = self._dials.values
        return self._strengths * torch.tensor(self._values)

    def put(self, tokens: Tensor) -> None:
        """What transformers calls a streamer: told of the prompt, then of every row's next token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._arrived.put((tokens.tolist(), self._values))
        now = time.monotonic()
        if not self.stopped:
            time.sleep(max((self._last or now) + self._pause - now, 0))
        self._last = time.monotonic()

    def end(self) -> None:
        """Transformers' word for the last token; what ends here is the thread, perhaps with an error."""

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing follows."""
        self._arrived.put(error)

    def __iter__(self) -> Iterator[tuple[list[int], tuple[float, ...]]]:
        while isinstance(arrived := self._arrived.get(), tuple):
            yield arrived
        if arrived is not None:
            raise arrived


class _Stop(StoppingCriteria):
    """Nobody reads any more."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self._relay.stopped, device=input_ids.device)


def _generate(ensemble: Ensemble, asked: Asked, manner: Manner, relay: _Relay, rows: int) -> None:
    stop = StoppingCriteriaList([_Stop(relay)])
    try:
        with seeded(ensemble, manner.seed):
            generate(ensemble, asked, manner, relay.alpha, rows, streamer=relay, stopping_criteria=stop)
        relay.finish()
    except BaseException as error:  # raised where somebody can tell the user
        relay.finish(error)


def generate(ensemble: Ensemble, asked: Asked, manner: Manner, alpha: Any, rows: int, **further: Any) -> Any:
    """`generate()` of the same request in `rows` rows, each with its own alpha.

    Args:
        ensemble: who writes.
        asked: what is answered.
        manner: how.
        alpha: `(rows, arms)`, or a callable that gives it.
        rows: how many.
        **further: more arguments of `generate()`.
    """
    inputs = {name: value.repeat(rows, 1) for name, value in asked.arguments.items() if isinstance(value, Tensor)}
    own = [
        None if one is None else {name: one[name].repeat(rows, 1) for name in ("input_ids", "attention_mask")}
        for one in asked.reward_inputs
    ]
    pad = ensemble.tokenizer.pad_token_id
    return ensemble.base.generate(
        **inputs,
        reward_models=list(ensemble.arms),
        alpha=alpha,
        reward_inputs=own if any(own) else None,
        tokenizer=ensemble.tokenizer,
        pad_token_id=ensemble.tokenizer.eos_token_id if pad is None else pad,
        **manner.sampling,
        **further,
    )


@contextmanager
def seeded(ensemble: Ensemble, seed: int) -> Iterator[None]:
    """Generate alone, from a seed, with the ensemble's threads; the process's random numbers stay as they were."""
    device = ensemble.base.device
    own_numbers = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with _ONE_AT_A_TIME, own_numbers, threads(ensemble.threads):
        torch.manual_seed(seed)
        yield


def ends_of(ensemble: Ensemble) -> frozenset[int]:
    """Ids that end a text."""
    ends = ensemble.base.generation_config.eos_token_id
    ends = ensemble.tokenizer.eos_token_id if ends is None else ends
    return frozenset(ends if isinstance(ends, list) else [ends])


def _note(replies: list[Reply], tokens: list[int], values: tuple[float, ...], ensemble: Ensemble) -> None:
    """Add every row's next token; rows that have ended go on being given padding."""
    ends = ends_of(ensemble)
    for reply, token in zip(replies, tokens, strict=True):
        if reply.ended:
            continue
        reply.ids.append(token)
        reply.alphas.append(tuple(reply.strength * value for value in values))
        reply.pieces.append(_new_text(ensemble.tokenizer, reply))
        reply.ended = token in ends


def _new_text(tokenizer: Any, reply: Reply) -> str:
    """What the last token adds to the text; characters of several tokens appear with the last of them."""
    text = tokenizer.decode(reply.ids, skip_special_tokens=True)
    return "" if text.endswith("\ufffd") else text[len(reply.text) :]
