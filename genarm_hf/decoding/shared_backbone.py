"""Base and LoRA reward models on the same weights, in one forward pass.

Decoding reads every weight once per token, and that reading is the cost. A LoRA reward model on the base's own weights
needs no second read: base rows and reward rows go through each layer together, and only the low-rank terms differ.

The pass runs on a second set of modules over the same tensors. It holds no state, the base's own modules are not
touched, and its rows are ordered in streams: `[base | reward model 1 | reward model 2 | ...]`, each of `batch` rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from ..adapters import has_adapters, share_weights, with_adapters
from ..guidance import mask_columns, position_ids_from_mask
from ..scoring import forward_parameters
from .reward_prompts import RewardPrompt
from .reward_reader import forward_inputs

# what stock generate() hands to a text model's forward; anything else might need rows repeated in a way not known here
_ROWWISE = ("input_ids", "attention_mask")
_KNOWN = frozenset(
    {
        *_ROWWISE,
        "position_ids",
        "past_key_values",
        "use_cache",
        "logits_to_keep",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
    }
)


# up to so many rows a stream, a low-rank term that a compiler fuses is cheaper as a sum than as two matrix products
_FEW_ROWS = 16


class StreamedLoRA(nn.Module):
    """A layer of the base and the low-rank terms that each reward stream adds to it.

    Args:
        layer: the base's linear layer (or GPT-2's transposed one).
        terms: per reward stream `(down, up)` of shapes `(rank, in)` and `(out, rank)`, scaling included; None where it
            adds nothing.
    """

    def __init__(self, layer: nn.Module, terms: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        super().__init__()
        self.layer, self.streams = layer, len(terms)
        self.down, self.up = _stack(terms)

    def forward(self, x: Tensor) -> Tensor:
        """Rows `(streams + 1) * batch` in, the same out; the first `batch` rows are the base's and get no term."""
        output = self.layer(x)
        base_rows = x.shape[0] // (self.streams + 1)
        rewards = x[base_rows:].reshape(self.streams, -1, x.shape[-1]).to(self.down.dtype)
        # written into the layer's own fresh output: no copy of it is made
        guided = output[base_rows:].view(self.streams, -1, output.shape[-1])
        if torch.compiler.is_compiling() and x.device.type == "cpu" and rewards.shape[1] <= _FEW_ROWS:
            guided += _fused(_fused(rewards, self.down), self.up)
        elif self.down.dtype == output.dtype:
            guided.baddbmm_(torch.bmm(rewards, self.down.mT), self.up.mT)
        else:
            guided += torch.bmm(torch.bmm(rewards, self.down.mT), self.up.mT)
        return output


def _fused(rows: Tensor, weight: Tensor) -> Tensor:
    """`rows @ weight.mT` of shapes `(streams, rows, in)` and `(streams, out, in)`, written for a compiler to fuse.

    A matrix product stands alone in a compiled graph. For a few rows and a small rank, starting it costs more than its
    arithmetic, which as a sum goes into the loops around it.
    """
    return (rows[:, :, None] * weight[:, None]).sum(-1)


class StreamedEmbeddingLoRA(nn.Module):
    """As [`StreamedLoRA`], for an embedding: `down` is looked up by id."""

    def __init__(self, layer: nn.Module, terms: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        super().__init__()
        self.layer, self.streams = layer, len(terms)
        down, self.up = _stack(terms)
        self.down = down.mT.contiguous()

    def forward(self, ids: Tensor) -> Tensor:
        """Ids `((streams + 1) * batch, length)` to embeddings."""
        output = self.layer(ids)
        base_rows = ids.shape[0] // (self.streams + 1)
        for stream, rows in enumerate(ids[base_rows:].chunk(self.streams)):
            start = base_rows * (stream + 1)
            output[start : start + base_rows] += self.down[stream][rows] @ self.up[stream].mT
        return output


def _stack(terms: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor]:
    """Terms of different ranks as `(streams, rank, in)` and `(streams, out, rank)`, filled up with zeros.

    On a CPU they are float32 at least: few processors multiply a handful of half-precision rows fast, and they are
    small.
    """
    known = [term for term in terms if term is not None]
    rank, (down, up) = max(term[0].shape[0] for term in known), known[0]
    lowest = torch.float32 if down.device.type == "cpu" else down.dtype
    dtype = reduce(torch.promote_types, (term[0].dtype for term in known), lowest)
    downs = down.new_zeros(len(terms), rank, down.shape[1], dtype=dtype)
    ups = up.new_zeros(len(terms), up.shape[0], rank, dtype=dtype)
    for stream, term in enumerate(terms):
        if term is not None:
            downs[stream, : term[0].shape[0]], ups[stream, :, : term[1].shape[1]] = term
    return downs, ups


class SharedRows:
    """Mixed into the class of a cache that holds all streams' rows: what moves a row moves it in every stream."""

    row_streams: int

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i of each stream becomes what its row `beam_idx[i]` was."""
        super().reorder_cache(self._in_all_streams(beam_idx))  # type: ignore[misc]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of each stream."""
        super().batch_select_indices(self._in_all_streams(indices))  # type: ignore[misc]

    def _in_all_streams(self, indices: Tensor) -> Tensor:
        batch = next(layer.keys for layer in self.layers if layer.is_initialized).shape[0] // self.row_streams  # type: ignore[attr-defined]
        return torch.cat([indices + stream * batch for stream in range(self.row_streams)])


@lru_cache(maxsize=32)
def shared_rows_class(cache_class: type) -> type:
    """The cache class whose rows come in streams."""
    return type(cache_class.__name__, (SharedRows, cache_class), {"__module__": cache_class.__module__})


@dataclass(frozen=True)
class StreamPrompts:
    """The prompts of all streams side by side, where reward models read prompts of their own.

    Attributes:
        ids: `(streams * batch, width)`, padded on the left.
        mask: the same shape, 1 = token.
        shift: columns in front of the base's own first one.
        padding: columns that the prompts of a row are filled up with, all streams together.
    """

    ids: Tensor
    mask: Tensor
    shift: int
    padding: int

    @classmethod
    def of(cls, prompts: Sequence[RewardPrompt]) -> "StreamPrompts":
        """Set prompts of the same batch, the base's first, below one another."""
        width = max(prompt.ids.shape[1] for prompt in prompts)
        device = prompts[0].ids.device

        def column(tensor: Tensor) -> Tensor:
            return torch.nn.functional.pad(tensor.to(device), (width - tensor.shape[1], 0))

        return cls(
            torch.cat([column(prompt.ids) for prompt in prompts]),
            torch.cat([column(prompt.mask) for prompt in prompts]),
            width - prompts[0].ids.shape[1],
            sum(width - prompt.ids.shape[1] for prompt in prompts),
        )

    def read(self, ids: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """What all streams read where the base reads its positions from `start` on.

        Args:
            ids: `(batch, tokens)`, the base's.
            start: first position of the base's text. At 0, whatever stands in front of it is read too.

        Returns:
            ids `(streams * batch, columns)`, and the mask of all columns so far.
        """
        width, end = self.ids.shape[1], start + ids.shape[1] + self.shift
        first = start + self.shift if start else 0
        behind = ids[:, max(ids.shape[1] - max(end - width, 0), 0) :]
        streams = self.ids.shape[0] // ids.shape[0]
        columns = torch.cat([self.ids[:, first:end], behind.repeat(streams, 1)], 1)
        return columns, mask_columns(self.mask, 0, end)  # type: ignore[return-value]


class SharedBackbone:
    """One pass for a base and reward models on its weights.

    Attributes:
        joint: the base's architecture over its own tensors, with every stream's low-rank terms.
        arms: indices of the reward models it serves, in the order of their streams.
        prompts: every stream's prompt, where some differ from the base's; None where all read the same.
    """

    def __init__(self, joint: Any, arms: Sequence[int], prompts: StreamPrompts | None = None) -> None:
        self.joint, self.arms, self.prompts = joint, tuple(arms), prompts

    @property
    def streams(self) -> int:
        """Streams of rows: the base's and one per reward model."""
        return len(self.arms) + 1

    @property
    def shift(self) -> int:
        """Columns of the joint cache in front of the base's first token."""
        return 0 if self.prompts is None else self.prompts.shift

    def pays(self, new_tokens: int, device: torch.device) -> bool:
        """Whether the passes saved for so many new tokens outweigh what prompts of different lengths are padded with.

        A padded column is computed like a token. On a CPU that costs up to a decoding step; on a GPU, which waits for
        weights while it decodes, a small part of one.
        """
        columns_per_step = 1 if device.type == "cpu" else 64
        return self.prompts is None or self.prompts.padding <= len(self.arms) * new_tokens * columns_per_step

    def __call__(self, forward: Any, start: int, **inputs: Any) -> tuple[Any, dict[int, Tensor]]:
        """Run all streams.

        Args:
            forward: the joint model, or its compiled call.
            start: first position of the base's text that is read.
            **inputs: the base's own inputs, for `batch` rows.

        Returns:
            the base's outputs, and by index each reward model's logits `(batch, length, vocab)`.
        """
        batch, count = inputs["input_ids"].shape
        expanded = self._expand(inputs, batch) if self.prompts is None else self._prompted(self.prompts, inputs, start)
        outputs = forward(**expanded)
        base_logits, *rewards = outputs.logits.split(batch)
        outputs.logits = base_logits[:, -count:]
        if outputs.get("hidden_states") is not None:
            outputs["hidden_states"] = tuple(
                None if rows is None else rows[:batch, -count:] for rows in outputs["hidden_states"]
            )
        if outputs.get("attentions") is not None:
            columns = self._columns(inputs.get("past_key_values"), start + count)
            outputs["attentions"] = tuple(
                None if rows is None else rows[:batch, :, -count:, -columns(layer) :]
                for layer, rows in enumerate(outputs["attentions"])
            )
        if self.prompts is not None and outputs.get("past_key_values") is not None:
            outputs["past_key_values"] = inputs["past_key_values"]
        return outputs, dict(zip(self.arms, (logits[:, -count:] for logits in rewards), strict=True))

    def _columns(self, cache: Any, end: int) -> Callable[[int], int]:
        """How many of the last columns of a layer's attention are the base's own text; 0: all."""
        if not self.shift:
            return lambda layer: 0
        if not isinstance(cache, StaticCache):
            return lambda layer: end
        layers: Any = cache.layers
        return lambda layer: 0 if layers[layer].is_sliding else layers[layer].max_cache_len - self.shift

    def _prompted(self, prompts: StreamPrompts, inputs: dict[str, Any], start: int) -> dict[str, Any]:
        """Inputs of streams behind different prompts: ids, masks and positions of their own."""
        ids, mask = prompts.read(inputs["input_ids"], start)
        positions = position_ids_from_mask(mask)[:, -ids.shape[1] :]
        own = inputs.get("position_ids")
        if own is not None:  # the base's are as stock makes them, behind padding too
            batch, count = inputs["input_ids"].shape
            positions[:batch, -count:] = own
        replaced = {"input_ids", "attention_mask", "position_ids", "past_key_values"}
        expanded = {name: value for name, value in inputs.items() if name not in replaced} | {"attention_mask": mask}
        if "position_ids" in forward_parameters(type(self.joint)):  # type: ignore[arg-type]
            expanded["position_ids"] = positions
        cache = inputs.get("past_key_values")
        if cache is not None:
            cache = expanded["past_key_values"] = cache.whole
        return forward_inputs(self.joint, ids, start, cache, expanded)

    def _expand(self, inputs: dict[str, Any], batch: int) -> dict[str, Any]:
        expanded = dict(inputs)
        for name in _ROWWISE:
            expanded[name] = self._repeat(inputs.get(name), batch)
        positions = inputs.get("position_ids")
        if positions is not None and positions.shape[0] == batch and batch > 1:
            expanded["position_ids"] = self._repeat(positions, batch)
        return {name: value for name, value in expanded.items() if value is not None}

    def _repeat(self, value: Any, batch: int) -> Any:
        if isinstance(value, dict):  # one mask per kind of layer
            return {key: self._repeat(item, batch) for key, item in value.items()}
        if isinstance(value, Tensor) and value.shape[0] == batch:
            return value.repeat(self.streams, *[1] * (value.ndim - 1))
        return value


_built: "WeakKeyDictionary[Any, dict[tuple, tuple]]" = WeakKeyDictionary()
_streams: "WeakKeyDictionary[Any, list[ref[Any]]]" = WeakKeyDictionary()


def shared_backbone(
    base: Any, models: Sequence[Any], arms: Sequence[int], prompts: StreamPrompts | None = None
) -> SharedBackbone:
    """The joint pass of a base and some of its reward models, built once and kept as long as the base lives.

    Args:
        base: the base.
        models: all reward models' causal LMs.
        arms: which of them share the base's weights, see [`why_not_shared`].
        prompts: every stream's, where some differ.
    """
    key = (base.device, base.dtype, *(id(models[arm]) for arm in arms))
    states = [adapter_state(models[arm]) for arm in arms]
    cache = _built.setdefault(base, {})
    if key not in cache or cache[key][1] != states:
        # the models are kept beside, so that an id cannot come to mean another one
        cache[key] = (_build(base, [models[arm] for arm in arms]), states, [models[arm] for arm in arms])
        _streams[cache[key][0]] = [ref(base), *(ref(models[arm]) for arm in arms)]
        while len(cache) > 4:
            del cache[next(iter(cache))]
    return SharedBackbone(cache[key][0], arms, prompts)


def models_of(module: Any) -> list[Any]:
    """The models whose rows go through a module: base and reward models for a joint pass, by streams; else itself.

    What counts or times forwards sees by it who ran: the module of a joint pass is nobody's own.
    """
    found = [made() for made in _streams.get(module, ())] or [module]
    return [with_adapters(model) for model in found]


def adapter_state(arm: Any) -> list[Any] | None:
    """What a joint pass was built from, to see whether it still holds; None while the adapter is merged or disabled."""
    state: list[Any] = []
    for _, layer in _lora_layers(arm):
        if layer.merged or layer.disable_adapters:
            return None
        adapters = [p for name, p in layer.named_parameters() if "lora_" in name]
        state.append((tuple(layer.active_adapters), tuple(layer.scaling.items())))
        state += [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in adapters]
    return state


@torch.no_grad()
def _build(base: Any, arms: Sequence[Any]) -> Any:
    joint = share_weights(base)
    layers = [dict(_lora_layers(arm)) for arm in arms]
    for name in sorted(set().union(*layers)):
        terms = [_terms(found[name]) if name in found else None for found in layers]
        layer = joint.get_submodule(name)
        kind = StreamedEmbeddingLoRA if isinstance(layer, nn.Embedding) else StreamedLoRA
        joint.set_submodule(name, kind(layer, terms))
    # its parameters are the base's own: not even their `requires_grad` may be touched
    return joint.eval()


def _lora_layers(arm: Any) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in arm.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    ]


def _terms(layer: Any) -> tuple[Tensor, Tensor] | None:
    """`(down, up)` of a LoRA layer's active adapters side by side, scaling included."""
    downs, ups = [], []
    for name in layer.active_adapters:
        if name in layer.lora_A:
            downs.append(layer.lora_A[name].weight)
            ups.append(layer.lora_B[name].weight * layer.scaling[name])
        elif name in layer.lora_embedding_A:
            downs.append(layer.lora_embedding_A[name])
            ups.append(layer.lora_embedding_B[name] * layer.scaling[name])
    return (torch.cat(downs, 0), torch.cat(ups, 1)) if downs else None


def takes_inputs(inputs: dict[str, Any]) -> bool:
    """Whether a forward's inputs are those of plain text, whose rows a joint pass knows how to repeat."""
    return inputs.get("inputs_embeds") is None and all(
        name in _KNOWN for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim > 0
    )


def why_no_own_prompts(base: Any, cache: Any) -> str | None:
    """Why reward models in the base's pass cannot read prompts of their own; None where they can.

    Args:
        base: the base.
        cache: the cache that the user passed, None where `generate()` makes it.
    """
    if cache is not None and type(cache) is not DynamicCache:
        return "the given cache has no room for other prompts"
    rope = getattr(base.config, "rope_parameters", None) or getattr(base.config, "rope_scaling", None) or {}
    kinds = [part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)]
    if any(kind in ("dynamic", "longrope") for kind in kinds):
        return "the base's rotary positions depend on the longest text in the batch"
    return None


def why_not_shared(base: Any, arm: Any) -> str | None:
    """Why a reward model cannot go through the base's weights in one pass; None where it can.

    Args:
        base: the base.
        arm: the reward model's causal LM.
    """
    return _unsuitable_base(base) or _unsuitable_arm(base, arm)


def is_base(base: Any, model: Any) -> bool:
    """Whether a model says what the base says: it is the base, or plain modules over the base's own tensors."""
    if model is base or type(model) is not type(base) or has_adapters(model):
        return model is base
    buffers = zip(base.buffers(), model.buffers(), strict=False)
    return (
        _unsuitable_base(base) is None
        and _foreign_weight(base, model, {}) is None
        and all(own.data_ptr() == other.data_ptr() for own, other in buffers)
    )


def _unsuitable_base(base: Any) -> str | None:
    if getattr(base.config, "is_encoder_decoder", False) or base.config.get_text_config() is not base.config:
        return "the base is not a plain text decoder"
    if getattr(base, "hf_quantizer", None) is not None:
        return "the base is quantised"
    if getattr(base, "_tp_size", None) not in (None, 1) or any(
        hasattr(module, "_hf_hook") for module in base.modules()
    ):
        return "the base is spread over devices or offloaded"
    if any(module._forward_hooks or module._forward_pre_hooks for module in base.modules()):
        return "the base has forward hooks, which only its own forward runs"
    if has_adapters(base):
        return "the base has adapters of its own inside"
    if str(getattr(base.config, "_attn_implementation", "")).startswith("flex"):
        return "flex attention's block masks cannot be repeated over streams"
    return None


def _unsuitable_arm(base: Any, arm: Any) -> str | None:
    layers = dict(_lora_layers(arm))
    if not layers:
        return "it has no LoRA layers"
    for name, layer in layers.items():
        reason = _unsuitable_layer(layer)
        if reason:
            return f"{name}: {reason}"
    return _foreign_weight(base, arm, layers)


def _unsuitable_layer(layer: Any) -> str | None:
    if layer.merged:
        return "its adapter is merged into the weights"
    if layer.disable_adapters:
        return "its adapter is disabled"
    if getattr(layer, "lora_variant", None) or any(getattr(layer, "use_dora", {}).values()):
        return "a LoRA variant (DoRA, ...) that is no sum of low-rank terms"
    if any(getattr(layer, "lora_bias", {}).values()):
        return "LoRA with a bias"
    plain = (nn.Linear, nn.Embedding)
    if type(layer.base_layer).__name__ != "Conv1D" and not isinstance(layer.base_layer, plain):
        return f"LoRA on a {type(layer.base_layer).__name__}"
    if type(layer.base_layer) is not nn.Embedding and isinstance(layer.base_layer, nn.Embedding):
        return f"LoRA on a {type(layer.base_layer).__name__}"
    dtype = layer.base_layer.weight.dtype
    # PEFT keeps adapters in float32 on a base of half precision, and adds their terms in float32
    if any(p.dtype not in (dtype, torch.float32) for name, p in layer.named_parameters() if "lora_" in name):
        return f"its adapter has another dtype than the base's {dtype}, and it is not float32"
    return None


def _foreign_weight(base: Any, arm: Any, layers: dict[str, Any]) -> str | None:
    """A weight that is not the base's own tensor, or one of the base's that the reward model does without."""
    own = dict(base.named_parameters(remove_duplicate=False))
    named = arm.named_parameters(remove_duplicate=False)
    found = {name.replace(".base_layer.", "."): tensor for name, tensor in named if "lora_" not in name}
    for name, tensor in found.items():
        if name not in own or own[name].data_ptr() != tensor.data_ptr():
            return f"{name} is not the base's own tensor (attach the adapter with `base_model=`)"
    lacking = next((name for name in own if name not in found), None)
    return None if lacking is None else f"it lacks the base's {lacking}"
