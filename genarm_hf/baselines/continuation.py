"""Rows of text that a causal LM goes on writing: what all decoders here start from, and how they sample.

Shapes are named `batch` (prompts), `rows` (texts being written, several to a prompt perhaps), `length`, `vocab`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import unwrap
from ..decoding.reward_reader import RewardReader
from ..scoring import evaluating
from ..vocabulary import check_vocabularies, vocab_size

PADDING_OF_EMBEDDINGS = 128
"""Rows by which embedding matrices of one vocabulary may differ."""


@dataclass(frozen=True)
class Prompt:
    """Checked input of a decoder.

    Attributes:
        ids: `(batch, length)`, padded on the left.
        mask: `(batch, length)`, 1 = token.
        eos: `(ends,)` ids that end a text; none if it only ends at its length.
        pad: id that follows the end of a text.
        max_new_tokens: most tokens of a response.
    """

    ids: Tensor
    mask: Tensor
    eos: Tensor
    pad: int
    max_new_tokens: int

    @classmethod
    def check(
        cls,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        max_new_tokens: int,
        eos_token_id: int | Sequence[int] | None,
        pad_token_id: int | None,
    ) -> "Prompt":
        """Look at what a user passed, before any model runs.

        Args:
            model: the causal LM that will write.
            input_ids: `(batch, length)`, padded on the left.
            attention_mask: `(batch, length)`, 1 = token; None: all are.
            max_new_tokens: most tokens of a response.
            eos_token_id: None: the model's own; an empty sequence: none.
            pad_token_id: None: the model's own, else the first id that ends a text.

        Raises:
            TypeError: the model is no decoder, or the ids are no integer tensor.
            ValueError: a shape, an id or a number is out of range, padding is on the right, or nothing says how texts
                end.
        """
        if getattr(getattr(model, "config", None), "is_encoder_decoder", True):
            raise TypeError(f"`model` must be a decoder-only causal LM, got {type(model).__name__}.")
        vocab = vocab_size(unwrap(model))
        check_count("max_new_tokens", max_new_tokens)
        mask = _checked_mask(input_ids, attention_mask, vocab)
        eos = _end_of_text(model, eos_token_id)
        pad = _padding(model, pad_token_id, eos)
        for name, ids in (("eos_token_id", eos), ("pad_token_id", [pad])):
            if any(not 0 <= index < vocab for index in ids):
                raise ValueError(f"`{name}` must lie in the model's vocabulary of {vocab} ids, got {ids}.")
        ends = torch.tensor(eos, dtype=torch.long, device=input_ids.device)
        return cls(input_ids, mask, ends, pad, max_new_tokens)


def _checked_mask(input_ids: Any, attention_mask: Any, vocab: int) -> Tensor:
    if not isinstance(input_ids, Tensor) or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise TypeError(f"`input_ids` must be a tensor of integer ids, got {_kind(input_ids)}.")
    if input_ids.ndim != 2 or not input_ids.numel():
        raise ValueError(
            f"`input_ids` must have the shape (batch, length), neither of them 0, got {tuple(input_ids.shape)}."
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` must be a tensor of `input_ids`' shape {tuple(input_ids.shape)}, got {_kind(mask)}."
        )
    if not bool(mask[:, -1].bool().all()) or bool((mask.long().diff(dim=1) < 0).any()):
        raise ValueError("`input_ids` must be padded on the left: pass `padding_side='left'` to the tokenizer.")
    real = input_ids[mask.bool()]
    if int(real.min()) < 0 or int(real.max()) >= vocab:
        raise ValueError(
            f"`input_ids` must be below the model's {vocab} ids, got {int(real.min())} to {int(real.max())}. "
            "Use the model's own tokenizer."
        )
    return mask.long()


def _kind(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _end_of_text(model: Any, eos_token_id: int | Sequence[int] | None) -> list[int]:
    if eos_token_id is None:
        eos_token_id = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if eos_token_id is None:
        eos_token_id = model.config.get_text_config(decoder=True).eos_token_id
    if eos_token_id is None:
        raise ValueError(
            "`eos_token_id` must say how texts end, since the model does not: pass an id, or [] for texts that only "
            "end at `max_new_tokens`."
        )
    return [int(eos_token_id)] if isinstance(eos_token_id, int) else [int(index) for index in eos_token_id]


def _padding(model: Any, pad_token_id: int | None, eos: list[int]) -> int:
    if pad_token_id is None:
        pad_token_id = getattr(getattr(model, "generation_config", None), "pad_token_id", None)
    if pad_token_id is None:
        pad_token_id = model.config.get_text_config(decoder=True).pad_token_id
    return int(pad_token_id) if pad_token_id is not None else eos[0] if eos else 0


def check_count(name: str, value: Any) -> None:
    """Refuse a number of things that is no integer, or below 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")


def check_finite(name: str, value: Any) -> None:
    """Refuse a weight that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Refuse a number that is not finite, or not above 0."""
    check_finite(name, value)
    if value <= 0:
        raise ValueError(f"`{name}` must be above 0, got {value!r}.")


def check_same_vocabulary(model: Any, other: Any, name: str, tokenizer: Any = None) -> None:
    """Refuse a second model whose ids mean other tokens; anything that is no model is taken at its word.

    Args:
        model: the causal LM that writes.
        other: what reads the same ids.
        name: what errors call it.
        tokenizer: its tokenizer, where known.

    Raises:
        ValueError: the vocabularies differ.
    """
    module = _module(other)
    if module is None or not hasattr(module, "config"):
        return
    model, other = unwrap(model), unwrap(module)
    sizes = vocab_size(model), vocab_size(other)
    if abs(sizes[0] - sizes[1]) > PADDING_OF_EMBEDDINGS:
        raise ValueError(
            f"{name} has a vocabulary of {sizes[1]} ids and `model` one of {sizes[0]}; both must use one tokenizer. "
            "A reward model of the same vocabulary is made by `from_causal_lm(model)`, or pass a callable that "
            "translates the ids."
        )
    check_vocabularies(model, other, name, None, tokenizer)


@contextmanager
def decoding(*models: Any) -> Iterator[None]:
    """No gradients, and evaluation mode for everything among `models` that is, or holds, a module."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for module in map(_module, models):
            if module is not None:
                stack.enter_context(evaluating(module))
        yield


def _module(one: Any) -> nn.Module | None:
    """What computes in a model or a reward, where that can be seen."""
    held = one if isinstance(one, nn.Module) else getattr(one, "model", None)
    return held if isinstance(held, nn.Module) else None


@dataclass
class Continuation:
    """Rows of text, one causal LM that has read them, and which of them have ended.

    An ended row is given padding, which is masked, and stays as it is.

    Attributes:
        reader: the model with its cache. Forwards are made on the model itself; of a `PeftModel`, on the model inside.
        prompt: where the rows come from.
        ids: `(rows, length)`.
        mask: `(rows, length)`, 1 = token.
        done: `(rows,)`.
        logits: `(rows, vocab)` of the next token, float32; None until asked for.
    """

    reader: RewardReader
    prompt: Prompt
    ids: Tensor
    mask: Tensor
    done: Tensor
    logits: Tensor | None = None

    @classmethod
    def begin(cls, model: Any, prompt: Prompt) -> "Continuation":
        """Rows that are prompts; nothing is read yet."""
        reader = RewardReader.open(unwrap(model), use_cache=True)
        reader.extend(prompt.ids, None if bool(prompt.mask.all()) else prompt.mask)
        done = torch.zeros(len(prompt.ids), dtype=torch.bool, device=prompt.ids.device)
        return cls(reader, prompt, prompt.ids, prompt.mask, done)

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return bool(self.done.all())

    @property
    def new_tokens(self) -> int:
        """Tokens behind the prompt, padding of ended rows included."""
        return self.ids.shape[1] - self.prompt.ids.shape[1]

    def next_logits(self) -> Tensor:
        """Logits `(rows, vocab)` of the next token, by one forward if they are not known."""
        if self.logits is None:
            self.logits = self.reader.logits(1)[:, -1].float().to(self.ids.device)
        return self.logits

    def append(self, tokens: Tensor) -> None:
        """Add one token `(rows,)` to every row that has not ended."""
        tokens = torch.where(self.done, self.prompt.pad, tokens)[:, None]
        real = (~self.done).long()[:, None]
        self.reader.extend(tokens, real if bool(self.done.any()) else None)
        self.ids, self.mask = torch.cat([self.ids, tokens], 1), torch.cat([self.mask, real], 1)
        self.done = self.done | torch.isin(tokens[:, 0], self.prompt.eos)
        self.logits = None

    def fork(self, times: int) -> "Continuation":
        """A copy in which every row is there `times` times, next to itself; what is read is not read again."""
        logits = self.next_logits()
        reader = replace(self.reader, cache=deepcopy(self.reader.cache))
        reader.repeat(times)
        rows = [rows.repeat_interleave(times, 0) for rows in (self.ids, self.mask, self.done, logits)]
        return Continuation(reader, self.prompt, *rows)

    def keep(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was."""
        self.reader.select(rows)
        self.ids, self.mask, self.done = self.ids[rows], self.mask[rows], self.done[rows]
        self.logits = None if self.logits is None else self.logits[rows]

    def sample(self, steps: int, temperature: float = 1.0, top_k: int | None = None, do_sample: bool = True) -> None:
        """Let the model write up to `steps` tokens more, fewer if every row ends."""
        for _ in range(steps):
            if self.finished:
                break
            self.append(draw(self.next_logits(), temperature, top_k, do_sample))


def draw(scores: Tensor, temperature: float = 1.0, top_k: int | None = None, do_sample: bool = True) -> Tensor:
    """An index `(rows,)` of each row: from `softmax(scores / temperature)` over its `top_k` best, or the best itself.

    torch's global random state decides.
    """
    if not do_sample:
        return scores.argmax(-1)
    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -math.inf)
    return torch.multinomial((scores / temperature).softmax(-1), 1)[:, 0]


def rewards_of(reward: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Rewards `(rows,)` of texts, float32, on the device of the ids.

    Raises:
        ValueError: `reward` does not give one finite number for each row.
    """
    rewards = torch.as_tensor(reward(ids, mask), dtype=torch.float32, device=ids.device)
    if rewards.shape != ids.shape[:1]:
        raise ValueError(
            f"`reward(ids, mask)` must give one number for each of the {len(ids)} rows, got shape "
            f"{tuple(rewards.shape)}."
        )
    if not bool(rewards.isfinite().all()):
        raise ValueError(f"`reward(ids, mask)` must give finite numbers, got {rewards.tolist()}.")
    return rewards


def check_sampling(temperature: float, top_k: int | None = None) -> None:
    """Refuse what cannot be sampled with."""
    check_positive("temperature", temperature)
    if top_k is not None:
        check_count("top_k", top_k)


def check_reward(model: Any, reward: Any, name: str = "reward") -> None:
    """Refuse what gives no rewards, or reads other ids.

    Raises:
        TypeError: it cannot be called, or is a bare model.
        ValueError: it has another vocabulary than `model`.
    """
    if isinstance(reward, nn.Module):
        raise TypeError(
            f"`{name}` must give rewards of texts, got {type(reward).__name__}: wrap a classifier, "
            "`TrajectoryReward(classifier)`."
        )
    if not callable(reward):
        raise TypeError(f"`{name}` must be a TrajectoryReward or a callable (ids, mask), got {type(reward).__name__}.")
    check_same_vocabulary(model, reward, f"`{name}`", getattr(reward, "tokenizer", None))
