"""How texts are read for their rewards: prompt, response and one end of sequence as ids; one stateless forward."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import unwrap
from .guidance import position_ids_from_mask
from .vocabulary import vocab_size

Encoded = tuple[list[int], int]
"""Ids of prompt and response, and where the response starts."""


def as_pairs(prompts: str | Sequence[str], responses: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """One prompt per response; a single prompt serves all.

    Raises:
        TypeError: they are no texts.
        ValueError: there are not as many prompts as responses.
    """
    responses = _texts(responses, "responses")
    prompts = [prompts] * len(responses) if isinstance(prompts, str) else _texts(prompts, "prompts")
    if len(prompts) != len(responses):
        raise ValueError(
            f"`prompts` and `responses` must have one length, got {len(prompts)} and {len(responses)}. One prompt as a "
            "string serves all responses."
        )
    return prompts, responses


def _texts(texts: Any, name: str) -> list[str]:
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, Iterable) or isinstance(listed, (bytes, Mapping)):
        raise TypeError(f"`{name}` must be a text or texts, got {type(texts).__name__}.")
    listed = list(listed)
    wrong = next((text for text in listed if not isinstance(text, str)), None)
    if wrong is not None or None in listed:
        raise TypeError(f"`{name}` must be texts, and one of them is {wrong!r:.60}.")
    return listed


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
        TypeError: `tokenizer` is none.
        ValueError: a response has no tokens.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "eos_token_id"):
        raise TypeError(f"`tokenizer` must be the reward model's tokenizer, got {type(tokenizer).__name__}.")
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


def check_ids(input_ids: Any, **masks: Any) -> None:
    """Refuse what is no batch of token ids, and masks of another shape.

    Args:
        input_ids: `(batch, length)`, if it is what it should be.
        **masks: by name, each `(batch, length)` or None.

    Raises:
        TypeError: something is no tensor, or one of another kind.
        ValueError: something has another shape.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dtype not in (torch.int64, torch.int32):
        kind = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise TypeError(f"`input_ids` must be a tensor of token ids (torch.long), got {kind}.")
    if input_ids.ndim != 2 or not input_ids.numel():
        raise ValueError(f"`input_ids` must be (batch, length), neither of them 0; got {tuple(input_ids.shape)}.")
    for name, mask in masks.items():
        if mask is not None and not isinstance(mask, Tensor):
            raise TypeError(f"`{name}` must be a tensor, 1 for tokens and 0 for others, got {type(mask).__name__}.")
        if mask is not None and mask.shape != input_ids.shape:
            raise ValueError(
                f"`{name}` must have the shape of `input_ids`, {tuple(input_ids.shape)}; got {tuple(mask.shape)}."
            )


def check_known(input_ids: Tensor, size: int) -> None:
    """Refuse ids that a model does not have. Ids on a GPU are not looked at, which would wait for it.

    Args:
        input_ids: of any shape, not empty.
        size: of the model's vocabulary.

    Raises:
        ValueError: as said.
    """
    if input_ids.device.type != "cpu":
        return
    smallest, largest = int(input_ids.min()), int(input_ids.max())
    if smallest < 0 or largest >= size:
        raise ValueError(
            f"`input_ids` hold id {smallest if smallest < 0 else largest}, and the model has {size} tokens, 0 to "
            f"{size - 1}. Encode the text with the model's own tokenizer."
        )


def check_base(base: Any, ids: Sequence[int]) -> None:
    """Refuse what cannot say how likely a text is.

    Args:
        base: a causal LM, whatever wraps it, if it is what it should be.
        ids: of the text.

    Raises:
        TypeError: it is no causal LM.
        ValueError: it lacks some of the ids.
    """
    model = unwrap(getattr(base, "backbone", base))
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if not isinstance(model, nn.Module) or not hasattr(model, "can_generate") or not model.can_generate():  # type: ignore[operator]
        raise TypeError(f"`base` must be a causal LM, got {type(base).__name__}.")
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        raise TypeError(f"`base` must be a causal LM, and {type(model).__name__} is an encoder-decoder.")
    check_known(torch.tensor(ids), vocab_size(model))


def check_batch_size(batch_size: Any) -> None:
    """Refuse what is no number of rows.

    Raises:
        ValueError: as said.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size!r}.")


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
