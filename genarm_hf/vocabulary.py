"""Do base and reward model mean the same tokens by the same ids? And how their log-probabilities are laid side by side.

Guidance adds numbers token by token, so a vocabulary that disagrees gives fluent nonsense without any error. Sizes
that differ by padding (32000, 32001, 32064) are fine; anything else has to be proven by the tokenizers.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.utils import logging

logger = logging.get_logger(__name__)

SHOWN_DISAGREEMENTS = 5


def vocab_size(model: Any) -> int:
    """Number of logits a causal LM gives, from its output embeddings where it has some, else from its config."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(head, "weight", None)
    configured = int(model.config.get_text_config(decoder=True).vocab_size)
    # quantised heads pack their weight: only a plain matrix says how many rows there are
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point() and weight.numel():
        return int(weight.shape[0])
    return configured


def align(logprobs: Tensor, size: int) -> Tensor:
    """Cut or pad log-probabilities to `size` tokens; tokens that the reward model lacks get -inf.

    Args:
        logprobs: `(..., vocab)` in nats, normalised over the reward model's own vocabulary.
        size: vocabulary of the base.

    Example:

    ```python
    >>> align(torch.tensor([0.5, 0.5]).log(), 3).exp()
    tensor([0.5000, 0.5000, 0.0000])

    ```
    """
    missing = size - logprobs.shape[-1]
    if missing > 0:
        return torch.nn.functional.pad(logprobs, (0, missing), value=-math.inf)
    return logprobs[..., :size] if missing < 0 else logprobs


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What the ids of a tokenizer mean. Compared by identity, so that verdicts can be remembered beside it.

    Attributes:
        tokens: token text by id.
        special: ids of special and added tokens.
        verdicts: what comparisons as the base's vocabulary found, by the reward model's and the number of ids compared.
    """

    tokens: Mapping[int, str]
    special: frozenset[int]
    verdicts: "WeakKeyDictionary[Vocabulary, dict[int, Verdict]]" = field(default_factory=WeakKeyDictionary, repr=False)


@dataclass(frozen=True)
class Verdict:
    """How two vocabularies compare.

    Attributes:
        shared: ids that both have.
        differing: how many of them mean different tokens; special tokens count only if both call them so.
        renamed: how many special tokens have two names.
        shown: the first that differ, `id: base / reward model`.
    """

    shared: int
    differing: int
    renamed: int
    shown: str


def check_vocabularies(
    base: Any,
    reward_model: Any,
    name: str,
    tokenizer: Any = None,
    reward_tokenizer: Any = None,
    than: str = "the base",
) -> None:
    """Refuse a reward model whose ids mean other tokens than the base's.

    Tokenizers are those passed, else those found beside the models (`name_or_path`, local files and hub cache only).
    Without tokenizers, sizes may differ by padding at most. Whatever is read or compared is remembered: this runs in
    every `generate()`.

    Args:
        base: the base causal LM.
        reward_model: the reward model's causal LM.
        name: what errors call the reward model, `reward_models[0]`.
        tokenizer: the base's tokenizer, optional.
        reward_tokenizer: the reward model's tokenizer, optional.
        than: what errors call the base.

    Raises:
        ValueError: the vocabularies disagree, or nothing shows that they agree.
    """
    sizes = vocab_size(base), vocab_size(reward_model)
    if (
        tokenizer is reward_tokenizer
        and sizes[0] == sizes[1]
        and (tokenizer is not None or _same_origin(base, reward_model))
    ):
        return
    base_vocabulary, vocabulary = _vocabulary(base, tokenizer), _vocabulary(reward_model, reward_tokenizer)
    if base_vocabulary is not None and vocabulary is not None:
        _judge(base_vocabulary, vocabulary, min(sizes), name, than)
    elif abs(sizes[0] - sizes[1]) > max(128, min(sizes) // 100):
        raise ValueError(
            f"{name} has a vocabulary of {sizes[1]} tokens and {than} one of {sizes[0]}: more than padding can "
            "explain, and no tokenizers were found to compare. Guidance needs one vocabulary; if ids do mean the "
            "same, show it by passing `tokenizer=` and `reward_tokenizers=`."
        )
    _warn_of_exclusions(sizes, (base_vocabulary, vocabulary), name, than)


def _same_origin(base: Any, reward_model: Any) -> bool:
    """A model and a LoRA of it, say: loaded from one place, they had one tokenizer."""
    origin = getattr(base.config, "_name_or_path", "")
    return bool(origin) and origin == getattr(reward_model.config, "_name_or_path", "")


_warned: set[tuple] = set()


def _warn_of_exclusions(
    sizes: tuple[int, int], vocabularies: Sequence[Vocabulary | None], name: str, than: str
) -> None:
    """Say once how many tokens only one side has: they cannot be sampled while the reward model guides."""
    if sizes[0] == sizes[1] or (sizes, name) in _warned:
        return
    _warned.add((sizes, name))
    side, larger = (than, vocabularies[0]) if sizes[0] > sizes[1] else (name, vocabularies[1])
    low, high = sorted(sizes)
    # what no tokenizer produces is padding of an embedding matrix, and no loss
    count = high - low if larger is None else sum(low <= index < high for index in larger.tokens)
    if count:
        logger.warning(
            f"{count} token ids exist in {side} alone ({sizes[0]} in {than}, {sizes[1]} in {name}); they are "
            "excluded from guided sampling. Padding of the embedding matrix is harmless."
        )


def _judge(base: Vocabulary, reward: Vocabulary, size: int, name: str, than: str) -> None:
    """Raise where an ordinary token differs, warn where only special ones do (chat fine-tunes rename reserved ones)."""
    if base is reward:
        return
    known = base.verdicts.setdefault(reward, {})
    verdict = known.get(size)
    first_time = verdict is None
    if verdict is None:
        verdict = known[size] = _compare(base, reward, size)
    if verdict.differing:
        raise ValueError(
            f"{name} has another vocabulary than {than}: {verdict.differing} of {verdict.shared} shared ids mean "
            f"different tokens (id: base / reward model) {verdict.shown}. Guidance adds log-probabilities id by id, so "
            "both must use one tokenizer."
        )
    if verdict.renamed and first_time:
        logger.warning(f"{name} and {than} name {verdict.renamed} special tokens differently: {verdict.shown}.")


def _compare(base: Vocabulary, reward: Vocabulary, size: int) -> Verdict:
    if base.tokens == reward.tokens:
        return Verdict(len(base.tokens), 0, 0, "")
    both = sorted(index for index in base.tokens.keys() & reward.tokens.keys() if index < size)
    differing = [index for index in both if base.tokens[index] != reward.tokens[index]]
    real = [index for index in differing if not (index in base.special and index in reward.special)]
    first = (real or differing)[:SHOWN_DISAGREEMENTS]
    shown = ", ".join(f"{index}: {base.tokens[index]!r} / {reward.tokens[index]!r}" for index in first)
    return Verdict(len(both), len(real), len(differing) - len(real), shown)


# ---------------------------------------------------------------------- reading tokenizers, once each


def _vocabulary(model: Any, tokenizer: Any) -> Vocabulary | None:
    if tokenizer is not None:
        return _of_tokenizer(tokenizer)
    path = str(getattr(model.config, "_name_or_path", "") or "")
    return _beside(path, _state(path)) if path else None


_read: "WeakKeyDictionary[Any, tuple[tuple[int, int], Vocabulary]]" = WeakKeyDictionary()


def _of_tokenizer(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer object, read again only when it has grown."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a multimodal processor holds one
    if not hasattr(tokenizer, "get_vocab"):
        raise TypeError(f"`tokenizer` and `reward_tokenizers` must be tokenizers, got {type(tokenizer).__name__}.")
    added = getattr(tokenizer, "added_tokens_decoder", {})
    size = tokenizer.vocab_size, len(added)  # len(tokenizer) counts a large vocabulary for 50 ms in older versions
    known = _read.get(tokenizer)
    if known is None or known[0] != size:
        special = frozenset(tokenizer.all_special_ids) | frozenset(added)
        # sorted: where two names share an id, the same one is kept every time
        known = size, Vocabulary({index: token for token, index in sorted(tokenizer.get_vocab().items())}, special)
        _read[tokenizer] = known
    return known[1]


def _state(path: str) -> int:
    """When a directory last changed; 0 for hub ids, whose cache only grows."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _beside(path: str, state: int) -> Vocabulary | None:
    """Vocabulary of the tokenizer saved beside a model, or None. Never from the network: this is inside generate()."""
    from transformers import AutoTokenizer

    try:
        # without an explicit False, a tokenizer with code of its own would stop to ask the user
        return _of_tokenizer(AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False))
    except Exception:  # whatever an absent, foreign or broken tokenizer raises: it is simply not at hand
        return None
