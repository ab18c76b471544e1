"""One forward over pairs of responses: which token sees which, and the log-probabilities of those that count.

Chosen and rejected responses follow one and the same prompt, so it is read once: a 4-D mask keeps the responses apart,
and both go on from the prompt's positions. A model that reads in another way than masked attention cannot do that; what
it can do is decided once, by rules and by a trial, in `choose_method`.

Shapes: `pairs`, `rows`, `length`, `tokens`, as `batches.PairCollator` makes them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import unwrap
from ..scoring import evaluating, forward_parameters
from .batches import PROMPT, PairCollator
from .chunked_head import LogitTransform, token_logprobs_from_hidden
from .data import ID_COLUMNS

_MASKED_ATTENTION = ("sdpa", "eager")  # implementations that take a 4-D mask
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# known to be read rightly without a trial, which sharded weights do not allow
_VERIFIED = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"),
    *("gpt2", "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "codegen", "phi", "phi3", "olmo", "olmo2", "olmo3", "opt"),
    *("cohere", "cohere2", "granite", "smollm3", "starcoder2", "falcon", "biogpt", "xglm"),
)


@dataclass(frozen=True)
class Method:
    """How a model reads pairs.

    Args:
        share_prompts: prompts once for both responses.
        skip_logits: hidden states to log-probabilities in chunks. False: the model's own logits, all at once.
        reason: why not everything is possible; None where it is.
    """

    share_prompts: bool = True
    skip_logits: bool = True
    reason: str | None = None


class PairForward:
    """Reads batches of pairs with a model that may be wrapped (DDP, FSDP, DeepSpeed, PEFT, a compiled module).

    The whole computation happens inside the wrapped model's forward, where sharded weights are present: the causal LM's
    own `forward` gives place to one that returns log-probabilities for as long as a call lasts.

    Args:
        backbone: the causal LM, or a PEFT model of it; not wrapped otherwise.
        method: what it can do.
    """

    def __init__(self, backbone: nn.Module, method: Method) -> None:
        self.causal_lm: Any = unwrap(backbone)
        self.method = method
        self._transform = LogitTransform.of(self.causal_lm.config.get_text_config(decoder=True))

    def __call__(self, model: nn.Module, part: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities `(pairs, 2)` of chosen and rejected responses, in nats.

        Args:
            model: the wrapped backbone.
            part: one of the `parts` of a batch.
        """
        if self.method.skip_logits:
            with self._reading_tokens():
                logps = model(
                    input_ids=part["input_ids"],
                    attention_mask=self._mask(part),
                    position_ids=part["position_ids"] if self.method.share_prompts else None,
                    predict_at=part["predict_at"],
                    targets=part["targets"],
                )
        else:
            logps = self._from_logits(model, part)
        return sum_by_response(logps, part["response_lengths"])

    @contextmanager
    def _reading_tokens(self) -> Iterator[None]:
        # set on the instance and not on the class: other models of the class are nobody's business
        before = vars(self.causal_lm).get("forward")
        self.causal_lm.forward = self._forward
        try:
            yield
        finally:
            if before is None:
                del self.causal_lm.forward
            else:
                self.causal_lm.forward = before

    def _forward(
        self,
        input_ids: Tensor,
        predict_at: Tensor,
        targets: Tensor,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        **_: Any,  # what PEFT adds: labels, inputs_embeds, ... which are None
    ) -> Tensor:
        positions = {} if position_ids is None else {"position_ids": position_ids}
        output = self.causal_lm.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **positions
        )
        hidden = output.last_hidden_state.flatten(0, 1)  # which may be on another device, where a model is on several
        hidden = hidden.index_select(0, predict_at.to(hidden.device))
        head = self.causal_lm.get_output_embeddings()
        return token_logprobs_from_hidden(hidden, targets, head, self._transform).to(targets.device)

    def _mask(self, part: Mapping[str, Tensor]) -> Any:
        if not self.method.share_prompts:
            return (part["segments"] > 0).long()
        return tree_masks(part, self.causal_lm)

    def _from_logits(self, model: nn.Module, part: Mapping[str, Tensor]) -> Tensor:
        kwargs: dict[str, Any] = {"use_cache": False}
        length = part["input_ids"].shape[1]
        first = 0
        if "logits_to_keep" in forward_parameters(self.causal_lm.__class__):
            first = int((part["predict_at"] % length).min())
            kwargs["logits_to_keep"] = length - first
        output = model(input_ids=part["input_ids"], attention_mask=self._mask(part), **kwargs)
        rows, columns = part["predict_at"] // length, part["predict_at"] % length - first
        logits = output.logits[rows, columns]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.gather(-1, part["targets"][:, None]).squeeze(-1) - logits.logsumexp(-1)


def sum_by_response(token_logps: Tensor, response_lengths: Tensor) -> Tensor:
    """Sums `(pairs, 2)` of `(tokens,)` that stand response by response, all chosen ones first.

    Example:

    ```python
    >>> sum_by_response(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[2, 1]]))
    tensor([[3., 4.]])

    ```
    """
    lengths = response_lengths.T.reshape(-1, 1)
    present = torch.arange(int(lengths.max()), device=lengths.device) < lengths
    # masked_scatter and not index_add: the same order of summation on every device and in every run
    table = torch.zeros(present.shape, dtype=token_logps.dtype, device=token_logps.device)
    return table.masked_scatter(present, token_logps).sum(-1).reshape(2, -1).T


def tree_masks(part: Mapping[str, Tensor], causal_lm: Any) -> Any:
    """What a model with masked attention is given as `attention_mask`: additive masks `(rows, 1, length, length)`.

    A token sees those of its own pair that stand no later, in the prompt or in its own response; in layers with a
    window only those whose position is near enough, as they would be if the response stood right behind the prompt.

    Returns:
        one mask, or a dictionary of one for each type of layer.
    """
    config = causal_lm.config.get_text_config(decoder=True)
    dtype = causal_lm.get_input_embeddings().weight.dtype
    if not dtype.is_floating_point:  # quantised
        dtype = causal_lm.dtype
    types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    visible = _visible(part)
    if window is not None and "sliding_attention" in types:
        near = visible & _near(part, window)
        return {"full_attention": _additive(visible, dtype), "sliding_attention": _additive(near, dtype)}
    if window is not None and not types:  # one window for all layers, as in Mistral
        visible &= _near(part, window)
    return _additive(visible, dtype)


def _visible(part: Mapping[str, Tensor]) -> Tensor:
    segments, branches = part["segments"], part["branches"]
    same_pair = segments[:, :, None] == segments[:, None, :]
    same_branch = (branches[:, :, None] == branches[:, None, :]) | (branches == PROMPT)[:, None, :]
    # padding is a pair of its own: every token sees itself at least, and no softmax is empty
    return (same_pair & same_branch).tril_()


def _near(part: Mapping[str, Tensor], window: int) -> Tensor:
    positions = part["position_ids"]
    return (positions[:, :, None] - positions[:, None, :]) < window


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    # a number and not a bool: eager attention adds masks, and silently misreads a bool one
    mask = torch.full(visible.shape, torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return mask.masked_fill_(visible, 0.0)[:, None]


# ---------------------------------------------------------------------- what a model can do


def choose_method(backbone: nn.Module, share_prompts: bool = True) -> Method:
    """The fastest way of reading pairs that is exact for a model.

    Rules exclude what is known not to work. Then the model reads three short pairs in both ways: if the results differ,
    the plain way is taken. Sharded or absent weights, which only a wrapped model can read with, are not tried.

    Args:
        backbone: the causal LM or PEFT model, not wrapped.
        share_prompts: False: do not even try.

    Raises:
        ValueError: the model's log-probabilities are no numbers.
    """
    causal_lm = unwrap(backbone)
    reason = why_not_shared(causal_lm) if share_prompts else None
    methods = [Method(True, True), Method(False, True, reason)] if share_prompts and reason is None else []
    methods = methods or [Method(False, True, reason)]
    if not _can_be_tried(causal_lm):
        known = causal_lm.config.get_text_config(decoder=True).model_type in _VERIFIED
        return methods[0] if known else Method(False, False, "its weights are sharded, and its type is not a known one")
    with evaluating(backbone), torch.no_grad():
        expected, noise = _trial(backbone, Method(False, False)), _noise(causal_lm)
        if not expected.isfinite().all():
            raise ValueError(
                "The log-probabilities of the model are no finite numbers: its weights are broken, or its "
                "`dtype` is too narrow for them (try float32)."
            )
        for method in methods:
            try:
                found = _trial(backbone, method)
            except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
                reason = f"its forward fails with a tree mask or without its head ({type(error).__name__}: {error})"
                continue
            if torch.allclose(found, expected, rtol=noise, atol=noise):
                return Method(method.share_prompts, method.skip_logits, reason)
            reason = f"its log-probabilities would be off by {(found - expected).abs().max():.2g}"
    return Method(False, False, reason)


def why_not_shared(causal_lm: Any) -> str | None:
    """A reason why a model cannot read a prompt once for two responses; None where no rule speaks against it."""
    config = causal_lm.config.get_text_config(decoder=True)
    attention = getattr(config, "_attn_implementation", None)
    other_layers = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if getattr(causal_lm, "_is_stateful", False) or "position_ids" not in forward_parameters(causal_lm.__class__):
        return "it is recurrent, or does not take positions"
    if attention not in _MASKED_ATTENTION:
        return f"its attention {attention!r} takes no 4-D mask (load it with attn_implementation='sdpa')"
    if other_layers:
        return f"it has layers of the type {sorted(other_layers)[0]!r}"
    if config.model_type == "gpt_neo":
        return "its attention looks at places, not positions"
    if getattr(config, "alibi", False):
        return "its attention is biased by places (ALiBi), not positions"
    return None


def _can_be_tried(causal_lm: Any) -> bool:
    positions = getattr(causal_lm.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return (positions is None or positions >= _TRIED_POSITIONS) and all(
        type(tensor).__name__ != "DTensor" and not hasattr(tensor, "ds_id") and not tensor.is_meta
        for tensor in causal_lm.parameters()
    )


def _noise(causal_lm: Any) -> float:
    """How far log-probabilities of one text may be apart, absolutely and relatively, by rounding alone."""
    # parts of a model (norms, rotations, softmax) are in single precision also where its weights are in double
    precisions = [torch.finfo(torch.float32).eps]
    precisions += [torch.finfo(tensor.dtype).eps for tensor in causal_lm.parameters() if tensor.is_floating_point()]
    if getattr(causal_lm, "hf_quantizer", None) is not None:  # which computes in half precision, whatever it stores
        precisions.append(torch.finfo(torch.bfloat16).eps)
    if torch.cuda.is_available() and torch.get_float32_matmul_precision() != "highest":
        precisions.append(2.0**-10)
    return min(max(precisions) ** 0.5, 0.01)


_TRIED_POSITIONS = 10  # of the longest sequence of a trial


def _trial(backbone: nn.Module, method: Method) -> Tensor:
    """Log-probabilities of three short pairs."""
    vocab = unwrap(backbone).get_input_embeddings().weight.shape[0]
    ids = iter(torch.randint(vocab, (31,), generator=torch.Generator().manual_seed(0)).tolist())
    sizes = [(4, 6, 6), (3, 3, 3), (2, 2, 2)]  # the second and the third share a row
    rows = [{column: list(islice(ids, size)) for column, size in zip(ID_COLUMNS, row, strict=True)} for row in sizes]
    # without shared prompts a pair at a time: nothing is padded, which some models get wrong
    parts = PairCollator(0, method.share_prompts, None if method.share_prompts else 1)(rows)["parts"]
    device = unwrap(backbone).get_input_embeddings().weight.device
    read = PairForward(backbone, method)
    return torch.cat([read(backbone, {k: v.to(device) for k, v in part.items()}).float() for part in parts])
