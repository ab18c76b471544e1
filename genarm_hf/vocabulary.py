"""Do base and reward model mean the same tokens by the same ids? And how their log-probabilities are laid side by side.

Guidance adds numbers token by token, so a vocabulary that disagrees gives fluent nonsense without any error. Sizes that differ
by padding (32000, 32001, 32064) are fine; anything else has to be proven by the tokenizers.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

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


def check_vocabularies(base: Any, reward_model: Any, name: str, tokenizer: Any = None, reward_tokenizer: Any = None) -> None:
    """Refuse a reward model whose ids mean other tokens than the base's.

    Tokenizers are those passed, else those found beside the models (`name_or_path`, local files and hub cache only). Without
    tokenizers, sizes may differ by padding at most.

    Args:
        base: the base causal LM.
        reward_model: the reward model's causal LM.
        name: what errors call the reward model, `reward_models[0]`.
        tokenizer: the base's tokenizer, optional.
        reward_tokenizer: the reward model's tokenizer, optional.

    Raises:
        ValueError: the vocabularies disagree, or nothing shows that they agree.
    """
    sizes = vocab_size(base), vocab_size(reward_model)
    vocabularies = _vocabulary(base, tokenizer), _vocabulary(reward_model, reward_tokenizer)
    if vocabularies[0] is not None and vocabularies[1] is not None:
        _compare(*vocabularies, min(sizes), name)
    elif abs(sizes[0] - sizes[1]) > max(128, min(sizes) // 100):
        raise ValueError(
            f"{name} has a vocabulary of {sizes[1]} tokens and the base one of {sizes[0]}: more than padding can explain, and "
            "no tokenizers were found to compare. Guidance needs one vocabulary; if ids do mean the same, show it by passing "
            "`tokenizer=` and `reward_tokenizers=`."
        )
    _warn_of_exclusions(sizes, name)


@lru_cache(maxsize=64)
def _warn_of_exclusions(sizes: tuple[int, int], name: str) -> None:
    """Say once how many tokens only one side has: they cannot be sampled while the reward model guides."""
    if sizes[0] != sizes[1]:
        side = "the base" if sizes[0] > sizes[1] else name
        logger.warning(
            f"{abs(sizes[0] - sizes[1])} token ids exist in {side} alone ({sizes[0]} in the base, {sizes[1]} in {name}); "
            "they are excluded from guided sampling. Padding of the embedding matrix is harmless."
        )


def _compare(base: tuple, reward: tuple, size: int, name: str) -> None:
    """Raise where an ordinary token differs, warn where only special tokens do (chat fine-tunes rename reserved ones)."""
    tokens, special = base
    reward_tokens, reward_special = reward
    both = sorted(index for index in tokens.keys() & reward_tokens.keys() if index < size)
    differing = [index for index in both if tokens[index] != reward_tokens[index]]
    real = [index for index in differing if not (index in special and index in reward_special)]
    shown = ", ".join(f"{i}: {tokens[i]!r} / {reward_tokens[i]!r}" for i in (real or differing)[:SHOWN_DISAGREEMENTS])
    if real:
        raise ValueError(
            f"{name} has another vocabulary than the base: {len(real)} of {len(both)} shared ids mean different tokens "
            f"(id: base / reward model) {shown}. Guidance adds log-probabilities id by id, so both must use one tokenizer."
        )
    if differing:
        logger.warning_once(f"{name} and the base name {len(differing)} special tokens differently: {shown}.")


def _vocabulary(model: Any, tokenizer: Any) -> tuple[Mapping[int, str], frozenset[int]] | None:
    if tokenizer is not None:
        return _read_tokenizer(tokenizer)
    path = getattr(model.config, "_name_or_path", "") or ""
    return _load_vocabulary(str(path)) if path else None


def _read_tokenizer(tokenizer: Any) -> tuple[Mapping[int, str], frozenset[int]]:
    special = frozenset(tokenizer.all_special_ids) | frozenset(getattr(tokenizer, "added_tokens_decoder", {}))
    return {index: token for token, index in tokenizer.get_vocab().items()}, special


@lru_cache(maxsize=8)
def _load_vocabulary(path: str) -> tuple[Mapping[int, str], frozenset[int]] | None:
    """Vocabulary of the tokenizer saved beside a model, or None. Never reaches for the network: this runs inside generate()."""
    from transformers import AutoTokenizer

    try:
        return _read_tokenizer(AutoTokenizer.from_pretrained(path, local_files_only=True))
    except Exception:  # whatever an absent, foreign or broken tokenizer raises: it is simply not at hand
        return None
