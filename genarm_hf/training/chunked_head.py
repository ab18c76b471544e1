"""Log-probabilities of tokens from hidden states, without ever holding the logits of more than a chunk of them.

The output head of a small model with a large vocabulary is most of its work and nearly all of its memory. Here logits
exist for one chunk at a time and are computed again, or not needed any more, in the backward pass. The results are
exact.

Shapes: `tokens`, `hidden`, `vocab`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

_CHUNK_BYTES = {"cpu": 1 << 25}
_CHUNK_BYTES_ACCELERATOR = 1 << 28


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to its head's output: `softcap * tanh(scale * x / softcap)`.

    Args:
        scale: factor (Cohere's `logit_scale`, one over Granite's `logits_scaling`).
        softcap: largest absolute value (Gemma 2's `final_logit_softcapping`). None: no cap.
    """

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> "LogitTransform":
        """The transform that a model's configuration asks for."""
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        return cls(scale * float(getattr(config, "lm_head_multiplier", None) or 1.0), _softcap(config))

    def __call__(self, logits: Tensor) -> Tensor:
        """Transform logits."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def apply_(self, logits: Tensor) -> Tensor:
        """Transform logits in place, which autograd must not see: under checkpointing it would be silently wrong."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of transformed `logits` with respect to what they were before."""
        if self.softcap is None:
            return self.scale
        return (logits / self.softcap).square_().neg_().add_(1.0).mul_(self.scale)


def _softcap(config: Any) -> float | None:
    value = getattr(config, "final_logit_softcapping", None)
    return None if value is None else float(value)


def token_logprobs_from_hidden(
    hidden: Tensor, targets: Tensor, head: nn.Module, transform: LogitTransform | None = None, chunk: int | None = None
) -> Tensor:
    """`log softmax(transform(head(hidden)))[target]` of each token.

    A plain linear head whose weights are frozen is read once: the gradient with respect to the hidden states is known
    as soon as the logits are. One that is trained is computed a second time in the backward pass; any other module (a
    LoRA head, quantised weights, sharded weights) too, by calling it.

    Args:
        hidden: `(tokens, hidden)`.
        targets: `(tokens,)`, ids.
        head: maps hidden states to logits.
        transform: what the model does to the head's output.
        chunk: tokens whose logits exist at a time. None: as many as fit into 32 MB (256 MB on an accelerator).

    Returns:
        `(tokens,)` in nats, float32 (float64 for float64 hidden states).

    Example:

    ```python
    >>> head = nn.Linear(2, 8)
    >>> nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)  # every token has probability 1/8
    (Parameter containing:...
    >>> token_logprobs_from_hidden(torch.ones(1, 2), torch.tensor([3]), head).exp()
    tensor([0.1250], grad_fn=<ExpBackward0>)

    ```
    """
    transform = transform or LogitTransform()
    hidden = hidden if torch.is_grad_enabled() else hidden.detach()  # a function is not told that nobody will ask
    chunk = chunk or _chunk_size(hidden, head)
    if not len(hidden) or not _is_plain_linear(head):
        return _by_calling(hidden, targets, head, transform, chunk)
    dtype = _compute_dtype(hidden)
    weight: Any = head.weight
    bias: Any = head.bias
    hidden, targets = hidden.to(weight.device), targets.to(weight.device)
    trained = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (weight, bias))
    function: Any = _Recomputed if trained else _OnePass
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if bias is None else bias.to(dtype)
        return function.apply(hidden.to(dtype), weight.to(dtype), bias, targets, transform, chunk)


def _chunk_size(hidden: Tensor, head: nn.Module) -> int:
    vocab = getattr(head, "out_features", None) or (1 << 17)
    return max(1, _CHUNK_BYTES.get(hidden.device.type, _CHUNK_BYTES_ACCELERATOR) // (4 * vocab))


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _is_plain_linear(head: nn.Module) -> bool:
    """Whether a head is nothing but its weights, all of which are here."""
    if type(head) is not nn.Linear or "forward" in vars(head) or head._forward_hooks or head._forward_pre_hooks:
        return False
    weight = head.weight
    # sharded weights (DTensor under FSDP2, `ds_id` under ZeRO-3) are gathered by the module's own hooks
    is_here = type(weight) in (Tensor, nn.Parameter) and not hasattr(weight, "ds_id") and weight.numel() > 0
    return is_here and weight.is_floating_point() and not weight.is_meta


def _by_calling(hidden: Tensor, targets: Tensor, head: nn.Module, transform: LogitTransform, chunk: int) -> Tensor:
    def logprobs(states: Tensor, ids: Tensor) -> Tensor:
        logits = transform(_upcast(head(states)))
        return logits.gather(-1, ids[:, None].to(logits.device)).squeeze(-1) - logits.logsumexp(-1)

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(logprobs, *part, use_reentrant=False) for part in parts])


def _upcast(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> Tensor:
    return transform.apply_(_upcast(linear(states, weight, bias)))


class _OnePass(torch.autograd.Function):
    """Frozen head: `d logprob / d hidden` is computed along with the log-probability and kept instead of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        chunk: int,
    ) -> Tensor:
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        logps = []
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, bias, transform)
            picked = logits.gather(-1, targets[part, None])
            slope = transform.slope(logits) if slopes is not None else None
            peak = logits.amax(-1, keepdim=True)
            total = logits.sub_(peak).exp_().sum(-1, keepdim=True)
            logps.append((picked - peak - total.log()).squeeze(-1))
            if slopes is not None:
                slopes[part] = _toward_target(logits.div_(total.neg_()), targets[part], slope, weight)
        ctx.save_for_backward(slopes)
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grads[0][:, None] * slopes).to(slopes.dtype), None, None, None, None, None


def _toward_target(minus_probs: Tensor, targets: Tensor, slope: Tensor | float | None, weight: Tensor) -> Tensor:
    """`(onehot - probs) * slope` times the head's weights; the first argument is overwritten."""
    towards = minus_probs.scatter_add_(-1, targets[:, None], torch.ones_like(minus_probs[:, :1]))
    if isinstance(slope, Tensor) or slope != 1.0:
        towards.mul_(slope)  # type: ignore[arg-type]
    return towards.to(weight.dtype) @ weight


class _Recomputed(torch.autograd.Function):
    """Trained head: logits are computed again in the backward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        chunk: int,
    ) -> Tensor:
        picked, totals = [], []
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, bias, transform)
            picked.append(logits.gather(-1, targets[part, None]).squeeze(-1))
            totals.append(logits.logsumexp(-1))
        total = torch.cat(totals)
        ctx.save_for_backward(hidden, weight, bias, targets, total)
        ctx.transform, ctx.chunk = transform, chunk
        return torch.cat(picked) - total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, total = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # sums over chunks are kept in full precision
        grad_weight = torch.zeros_like(weight, dtype=total.dtype)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=total.dtype)
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = _logits(hidden[part], weight, bias, ctx.transform)
            slope = ctx.transform.slope(logits)
            delta = logits.sub_(total[part, None]).exp_().neg_()
            delta.scatter_add_(-1, targets[part, None], torch.ones_like(delta[:, :1]))
            delta.mul_(slope).mul_(grads[0][part, None])
            if grad_bias is not None:
                grad_bias += delta.sum(0)
            delta = delta.to(weight.dtype)
            grad_hidden[part] = delta @ weight
            grad_weight += delta.T @ hidden[part]
        grad_bias = None if grad_bias is None else grad_bias.to(weight.dtype)
        return grad_hidden, grad_weight.to(weight.dtype), grad_bias, None, None, None
