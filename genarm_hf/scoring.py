"""How texts are read for their rewards: prompt, response and one end of sequence as ids; one stateless forward."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import unwrap
from .guidance import position_ids_from_mask

Encoded = tuple[list[int], int]
"""Ids of prompt and response, and where the response starts."""


def as_pairs(prompts: str | Sequence[str], responses: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """One prompt per response; a single prompt serves all.

    Raises:
        ValueError: there are not as many prompts as responses.
    """
    responses = [responses] if isinstance(responses, str) else list(responses)
    prompts = [prompts] * len(responses) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(responses):
        raise ValueError(
            f"`prompts` and `responses` must have one length, got {len(prompts)} and {len(responses)}. One prompt as a "
            "string serves all responses."
        )
    return prompts, responses


def encode_pairs(
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    prompt_template: str | None = None,
    append_eos: bool = True,
) -> list[Encoded]:
    """Ids of prompts and responses.

    A prompt gets the special tokens the tokenizer puts in front (BOS, once, even if the text spells it out), none
    behind it: the response follows. A response gets none but its end of sequence, once.

    Args:
        tokenizer: the model's tokenizer.
        prompts: prompt texts.
        responses: as many response texts.
        prompt_template: format string with `{prompt}`.
        append_eos: whether the end of the response counts as a token.

    Raises:
        ValueError: a response has no tokens.
    """
    if not responses:
        return []
    if prompt_template:
        prompts = [prompt_template.format(prompt=prompt) for prompt in prompts]
    prompt_ids = _encode_prompts(tokenizer, list(prompts))
    response_ids = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id if append_eos else None
    rows = []
    for index, (first, second) in enumerate(zip(prompt_ids, response_ids, strict=True)):
        if eos is not None and second[-1:] != [eos]:
            second = [*second, eos]
        if not second:
            raise ValueError(
                f"`responses[{index}]` has no tokens: {responses[index]!r}. Leave it out, or pass append_eos=True."
            )
        rows.append(([*first, *second], len(first)))
    return rows


def _encode_prompts(tokenizer: Any, prompts: list[str]) -> list[list[int]]:
    with_special = tokenizer(prompts)["input_ids"]
    plain = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    return [_without_suffix(*both, tokenizer.bos_token_id) for both in zip(with_special, plain, strict=True)]


def _without_suffix(full: list[int], plain: list[int], bos: int | None) -> list[int]:
    """Special tokens in front of the text, and the text, but nothing that closes it."""
    prefix = next((full[:k] for k in range(len(full) - len(plain) + 1) if full[k : k + len(plain)] == plain), None)
    if prefix is None:
        return full  # a tokenizer that rewrites texts between its special tokens
    if not plain:
        prefix = full[:1] if bos is not None and full[:1] == [bos] else []
    elif bos is not None and prefix[-1:] == [bos] == plain[:1]:
        prefix = prefix[:-1]  # a template that spells BOS out
    return [*prefix, *plain]


def summed_rewards(token_rewards: Any, encoded: Sequence[Encoded], device: torch.device, batch_size: int) -> Tensor:
    """One reward a text, rows of like length together.

    Args:
        token_rewards: ids, attention mask and response mask to rewards, each `(rows, length)`.
        encoded: the texts.
        device: where ids go.
        batch_size: rows per forward.

    Returns:
        float32 `(texts,)` in nats, on the CPU.
    """
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row][0]))
    scores = torch.zeros(len(encoded))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask, response_mask = right_pad([encoded[row] for row in rows], device)
        scores[rows] = token_rewards(ids, mask, response_mask).sum(-1).cpu()
    return scores


def right_pad(rows: Sequence[Encoded], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and response mask, each `(rows, length)`, padded on the right with 0."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids, _ in rows], device=device)
    sizes = torch.tensor([[len(ids)] for ids, _ in rows], device=device)
    starts = torch.tensor([[start] for _, start in rows], device=device)
    positions = torch.arange(length, device=device)
    mask = (positions < sizes).long()
    return ids, mask, mask * (positions >= starts)


def read_logits(model: Any, input_ids: Tensor, attention_mask: Tensor | None, keep: int) -> Tensor:
    """Logits `(batch, keep, vocab)` of the last positions, by one stateless forward; padding has no effect on it."""
    model = unwrap(getattr(model, "backbone", model))
    accepted = forward_parameters(model.__class__)
    kwargs: dict[str, Any] = {"use_cache": False}
    if attention_mask is not None:
        kwargs["attention_mask"] = attention_mask
        if "position_ids" in accepted:
            kwargs["position_ids"] = position_ids_from_mask(attention_mask)
    if "logits_to_keep" in accepted:
        kwargs["logits_to_keep"] = keep
    return model(input_ids, **kwargs).logits[:, -keep:]


@lru_cache(maxsize=64)
def forward_parameters(model_class: type) -> frozenset[str]:
    """Names that a model class's forward takes."""
    return frozenset(inspect.signature(model_class.forward).parameters)  # type: ignore[attr-defined]


def first_column(keep: Tensor) -> int:
    """The first column with a True in any row, else the last column. At least 1: column 0 is never predicted."""
    columns = keep.any(0).nonzero()
    return max(int(columns[0]) if len(columns) else keep.shape[1] - 1, 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without which dropout makes rewards random; what was training trains again afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
