"""The mathematics of guidance, on tensors alone (arXiv 2410.08193).

An autoregressive reward model `pi_r` gives every token a reward, its log-probability in nats; a base model is guided by
`log pi(v) = log pi_base(v) + sum_i alpha_i log pi_i(v) - log Z`. Shapes are written with the
legend `batch`, `length`, `vocab`, `arms`.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Alpha = float | Sequence[float] | Tensor | Callable[[int], Any]
"""What users may pass as alpha: a number, one per reward model, `(batch, arms)`, or a callable `step -> alpha`."""


def as_alpha(alpha: Any, arms: int) -> Tensor:
    """Check guidance strengths and give them one shape.

    Args:
        alpha: a number (used for every reward model), a sequence or tensor `(arms,)`, or a tensor `(batch, arms)`.
        arms: how many reward models there are.

    Returns:
        float32 tensor `(1, arms)`, or `(batch, arms)` where rows have trade-offs of their own.

    Raises:
        TypeError: alpha is a string or another thing that is no number.
        ValueError: alpha has another length than there are reward models, or holds nan or infinity.

    Example:

    ```python
    >>> as_alpha(0.5, arms=2)
    tensor([[0.5000, 0.5000]])
    >>> as_alpha([0.8, -0.2], arms=2)
    tensor([[ 0.8000, -0.2000]])

    ```
    """
    values = _to_tensor(alpha)
    if values.ndim == 0:
        values = values.expand(arms)
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2 or values.shape[1] != arms or not len(values):
        hint = " For one reward model and a value per row, pass alpha[:, None]." if arms == 1 else ""
        raise ValueError(
            f"`alpha` must be a number, have shape ({arms},) for the {arms} reward model(s), or (batch, {arms}); "
            f"got shape {tuple(_to_tensor(alpha).shape)}.{hint}"
        )
    if not torch.isfinite(values).all():
        raise ValueError(f"`alpha` must be finite, got {alpha}. Use 0 to switch a reward model off.")
    return values


def _to_tensor(alpha: Any) -> Tensor:
    if isinstance(alpha, Tensor) and alpha.dtype != torch.bool and not alpha.is_complex():
        return alpha.detach().to("cpu", torch.float32)
    if (isinstance(alpha, (Real, Sequence)) and not isinstance(alpha, (bool, str, bytes))) or hasattr(
        alpha, "__array__"
    ):
        try:
            return torch.as_tensor(alpha).to(torch.float32)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(
        f"`alpha` must be a number, a sequence of numbers, a tensor or a callable, got {alpha!r} "
        f"({type(alpha).__name__})."
    )


def combine(base_logits: Tensor, reward_logprobs: Sequence[Tensor | None], alphas: Sequence[float | Tensor]) -> Tensor:
    """Guided logits: the base's logits plus the weighted rewards of every token (not renormalised).

    They stay on the base's own scale, so that penalties and processors see what they expect and alpha -> 0 is
    continuous. A token that the base masks (-inf) stays masked. A token that a reward model cannot produce (-inf) is
    masked wherever that model's alpha is not zero, whatever its sign, and untouched where it is zero.

    Args:
        base_logits: `(batch, length, vocab)`.
        reward_logprobs: per reward model `(batch, length, vocab)` log-probabilities in nats, or None where it did not
            run.
        alphas: per reward model a float, or a float32 tensor that broadcasts to `(batch, length, 1)`.

    Returns:
        float32 `(batch, length, vocab)`.

    Example:

    ```python
    >>> base = torch.zeros(1, 1, 2)
    >>> reward = torch.tensor([[[0.25, 0.75]]]).log()
    >>> combine(base, [reward], [1.0]).softmax(-1)
    tensor([[[0.2500, 0.7500]]])

    ```
    """
    # half-precision logits become float32 in the first sum, without a copy of their own
    guided = base_logits
    for logprobs, alpha in zip(reward_logprobs, alphas, strict=True):
        if logprobs is None:
            continue
        if isinstance(alpha, Tensor):
            guided = guided + _weighted(logprobs, alpha)
        elif alpha > 0:
            # -inf times a positive number needs no care: one fused operation
            guided = torch.add(guided, logprobs, alpha=alpha)
        elif alpha < 0:
            guided = torch.add(guided, logprobs, alpha=alpha).masked_fill(logprobs.isneginf(), -math.inf)
    return guided.float()


def _weighted(logprobs: Tensor, alpha: Tensor) -> Tensor:
    """`alpha * logprobs` without `0 * -inf`: an impossible token counts nothing at alpha 0 and is masked elsewhere."""
    impossible = torch.where(alpha == 0, 0.0, -math.inf)
    return torch.where(logprobs.isneginf(), impossible, alpha * logprobs)


def signed_sum(logprobs: Sequence[Tensor], signs: Sequence[float]) -> Tensor:
    """Rewards made of several models' log-probabilities; -inf where any of them is, whatever its sign.

    Args:
        logprobs: of one shape each, in nats.
        signs: a factor each, not 0.

    Example:

    ```python
    >>> signed_sum([torch.tensor([0.5, 0.0]).log(), torch.tensor([0.25, 0.0]).log()], [1.0, -1.0]).exp()
    tensor([2., 0.])

    ```
    """
    impossible = torch.stack([part.isneginf() for part in logprobs]).any(0)
    total = sum(sign * part for part, sign in zip(logprobs, signs, strict=True))
    return torch.as_tensor(total).masked_fill(impossible, -math.inf)


def token_logprobs(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Log-probability of every token given those before it.

    Args:
        logits: `(batch, length, vocab)`; row t predicts token t + 1.
        input_ids: `(batch, length)`.

    Returns:
        float32 `(batch, length)` in nats; the first token, which nothing predicts, has 0.

    Example:

    ```python
    >>> token_logprobs(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]])).exp()
    tensor([[1.0000, 0.2500, 0.2500]])

    ```
    """
    targets = input_ids[:, 1:, None]
    predictions = logits[:, :-1].float()
    chosen = predictions.gather(-1, targets).squeeze(-1) - predictions.logsumexp(-1)
    return torch.nn.functional.pad(chosen, (1, 0))


def position_ids_from_mask(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens only (mask 1 = token, 0 = hidden); a hidden token has the one before it.

    Example:

    ```python
    >>> position_ids_from_mask(torch.tensor([[0, 0, 1, 1]]))
    tensor([[0, 0, 0, 1]])

    ```
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def mask_columns(mask: Tensor | None, start: int, end: int) -> Tensor | None:
    """Columns [start, end) of a mask that is 1 behind its end."""
    if mask is None:
        return None
    known = mask[:, start:end]
    return torch.nn.functional.pad(known, (0, end - start - known.shape[1]), value=1)
