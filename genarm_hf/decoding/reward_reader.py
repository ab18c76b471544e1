"""One reward model reading one generation: its cache, mask and positions, kept apart from the base's.

The base and a reward model may differ in architecture, device, prompt and padding. All they share is the ids of the
continuation, so that is all that passes between them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StaticCache

from ..guidance import position_ids_from_mask
from ..scoring import forward_parameters
from ..vocabulary import vocab_size
from .reward_prompts import RewardPrompt

CACHE_NAMES = ("past_key_values", "cache_params")


@dataclass
class RewardReader:
    """What one reward model has read so far, and how it reads on.

    Ids are first noted (`extend`) and only fed to the model when its opinion is asked for (`logits`), so a reward
    model whose alpha is zero for a while costs nothing then and catches up later. Without a cache everything stays
    noted and is read anew each time: the stateless forward, and the fallback of models whose cache transformers cannot
    build.

    Attributes:
        model: the causal LM that computes.
        cache: its own cache, or None.
        read: number of tokens in the cache.
        pending: ids `(batch, tokens)` noted and not in the cache.
        mask: `(batch, read + pending)`, 1 = token; None while nothing is masked.
        vocab: size of the model's vocabulary.
        base_vocab: size of the base's, where ids come from.
        forwards: how often the model has run.
        static_length: tokens that a static cache holds; None for one that grows.
        compiled: the model's compiled call, for single tokens behind a static cache; None where there is none.
    """

    model: Any
    cache: Any = None
    read: int = 0
    pending: Tensor | None = None
    mask: Tensor | None = None
    vocab: int = 0
    base_vocab: int = 0
    forwards: int = 0
    static_length: int | None = None
    compiled: Callable[..., Any] | None = None

    @classmethod
    def open(
        cls,
        model: Any,
        use_cache: bool,
        prompt: RewardPrompt | None = None,
        base_vocab: int = 0,
        static_length: int | None = None,
    ) -> "RewardReader":
        """A reader at the start of a text, or behind a prompt of its own.

        Args:
            model: the causal LM.
            use_cache: whether it keeps one.
            prompt: what it reads first.
            base_vocab: size of the base's vocabulary.
            static_length: tokens that a static cache is to hold; None for one that grows.
        """
        cache = _new_cache(model, static_length) if use_cache else None
        reader = cls(model, cache, vocab=vocab_size(model), base_vocab=base_vocab, static_length=static_length)
        if prompt is not None:
            reader.extend(prompt.ids, None if bool(prompt.mask.all()) else prompt.mask)
        return reader

    @property
    def length(self) -> int:
        """Tokens noted, read or not."""
        return self.read + (0 if self.pending is None else self.pending.shape[1])

    def extend(self, ids: Tensor, mask: Tensor | None) -> None:
        """Note new ids `(batch, tokens)` and their mask, None where all are real. Ids the model lacks are masked."""
        ids, mask = self._hide_unknown(to_device(ids, self.model.device), mask)
        if mask is not None:
            mask = to_device(mask, ids.device)
        if mask is not None or self.mask is not None:
            self._extend_mask(ids, mask)
        self.pending = ids if self.pending is None else torch.cat([self.pending, ids], 1)

    def _hide_unknown(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Mask ids that this model's vocabulary lacks: image placeholders, say, are nothing to a text model."""
        if self.vocab >= self.base_vocab:
            return ids, mask
        unknown = ids >= self.vocab
        # asking an accelerator whether there are any would make the host wait for it at every token
        if (ids.device.type == "cpu" or ids.shape[1] > 1) and not bool(unknown.any()):
            return ids, mask
        mask = torch.ones_like(ids) if mask is None else mask.to(ids.device)
        return ids.masked_fill(unknown, 0), mask.masked_fill(unknown, 0)

    def logits(self, keep: int) -> Tensor:
        """Read what is pending; return the logits `(batch, keep, vocab)` of its last tokens, on the model's device."""
        ids = self.pending
        assert ids is not None and ids.shape[1] >= keep, "logits asked for tokens that were not noted"
        compiled = self.compiled if ids.shape[1] == 1 else None
        outputs = (compiled or self.model)(**self._inputs(ids, keep))
        self.forwards += 1
        if self.cache is not None:
            self.read += ids.shape[1]
            self.pending = None
        logits = outputs.logits[:, -keep:]
        return own_memory(logits) if compiled else logits

    def compile(self, compile_config: Any) -> None:
        """Read single tokens by the model's compiled call, where transformers would compile it too."""
        inputs, config = {"past_key_values": self.cache}, GenerationConfig(compile_config=compile_config)
        if isinstance(self.cache, StaticCache) and self.model._valid_auto_compile_criteria(inputs, config):
            self.compiled = self.model.get_compiled_call(compile_config)

    def _inputs(self, ids: Tensor, keep: int) -> dict[str, Any]:
        accepted = forward_parameters(type(self.model))  # type: ignore[arg-type]
        inputs: dict[str, Any] = {"use_cache": self.cache is not None, "return_dict": True}
        if self.cache is not None:
            inputs[next(name for name in CACHE_NAMES if name in accepted)] = self.cache
        if self.mask is not None:
            inputs["attention_mask"] = self.mask
            if "position_ids" in accepted:
                inputs["position_ids"] = position_ids_from_mask(self.mask)[:, -ids.shape[1] :]
        if "logits_to_keep" in accepted:
            inputs["logits_to_keep"] = keep
        return forward_inputs(self.model, ids, self.read, self.cache, inputs)

    def _extend_mask(self, ids: Tensor, mask: Tensor | None) -> None:
        old = self.mask
        if old is None:
            old = torch.ones((ids.shape[0], self.length), dtype=torch.long, device=ids.device)
        new = torch.ones_like(ids) if mask is None else mask.long()
        self.mask = torch.cat([old, new], 1)

    # ------------------------------------------------------------------ the operations of a cache

    def crop(self, removed: int) -> None:
        """Forget the last `removed` tokens; unread ones first, as they are the newest."""
        unread = 0 if self.pending is None else self.pending.shape[1]
        from_pending = min(removed, unread)
        if from_pending and self.pending is not None:
            self.pending = self.pending[:, : unread - from_pending] if unread > from_pending else None
        if removed and self.mask is not None:
            self.mask = self.mask[:, : self.mask.shape[1] - removed]
        from_cache = removed - from_pending
        # crop(0) lets recording layers drop what they no longer need; older transformers mean something else by it
        if self.read and (from_cache or _records_past(self.cache)):
            self.cache.crop(-from_cache)
        self.read -= from_cache

    def reorder(self, indices: Tensor) -> None:
        """Row i becomes what row `indices[i]` was (beam search)."""
        self._rows(lambda rows: rows.index_select(0, indices.to(rows.device)))
        if self.read:
            self.cache.reorder_cache(indices.to(self.model.device))

    def repeat(self, times: int) -> None:
        """Every row `times` times in a row."""
        self._rows(lambda rows: rows.repeat_interleave(times, 0))
        if self.read:
            self.cache.batch_repeat_interleave(times)

    def select(self, indices: Tensor) -> None:
        """Keep these rows only."""
        self._rows(lambda rows: rows[indices.to(rows.device)])
        if self.read:
            self.cache.batch_select_indices(indices.to(self.model.device))

    def reset(self) -> None:
        """Back to the start of a text."""
        self.read, self.pending, self.mask = 0, None, None
        if self.cache is not None:
            self.cache = _new_cache(self.model, self.static_length)

    def record_past(self, name: str) -> None:
        """Prepare for being rolled back beyond a sliding window (assisted decoding).

        Raises:
            ValueError: the model's cache cannot be rolled back (recurrent layers; before transformers 5.15 also
                sliding windows).
        """
        if self.cache is None:
            return
        if _records_past(self.cache):
            self.cache.activate_past_recording()
        if not _can_roll_back(self.model, self.cache):
            raise ValueError(
                f"{name} ({type(self.model).__name__}) has sliding-window or recurrent layers that this version of "
                f"transformers cannot roll back, "
                "as assisted decoding and prompt lookup need. Generate without `assistant_model` and "
                "`prompt_lookup_num_tokens`."
            )

    def _rows(self, change: Any) -> None:
        if self.pending is not None:
            self.pending = change(self.pending)
        if self.mask is not None:
            self.mask = change(self.mask)


def static_capacity(cache: Any) -> int | None:
    """Tokens that a static cache holds; None for one that grows, or whose layers all forget what leaves a window."""
    cache = getattr(cache, "self_attention_cache", cache)
    if not isinstance(cache, StaticCache):
        return None
    return max((layer.max_cache_len for layer in cache.layers if not layer.is_sliding), default=None)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor without waiting, but to the CPU, which would read it before it has arrived."""
    return tensor.to(device, non_blocking=device.type != "cpu")


def own_memory(logits: Tensor) -> Tensor:
    """Logits of a compiled call, out of the reach of the next one: CUDA graphs write into the same memory again."""
    return logits.clone() if logits.is_cuda else logits


def forward_inputs(model: Any, ids: Tensor, start: int, cache: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """A forward's inputs; behind a static cache with the masks that transformers makes outside of what is compiled.

    Args:
        model: the causal LM.
        ids: `(batch, tokens)` new ids.
        start: tokens in the cache.
        cache: the cache, or None.
        inputs: all others; `attention_mask` `(batch, start + tokens)` or absent.
    """
    if not isinstance(cache, StaticCache):
        return inputs | {"input_ids": ids}
    if "position_ids" in forward_parameters(type(model)):  # type: ignore[arg-type]
        positions = inputs.get("position_ids")
        if positions is None:
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        # of one shape and stride at every token, or each would be compiled anew
        inputs = inputs | {"position_ids": positions.expand(ids.shape).clone(memory_format=torch.contiguous_format)}
    return model.prepare_inputs_for_generation(ids, is_first_iteration=start == 0, **inputs)


_lengths: "WeakKeyDictionary[Any, int]" = WeakKeyDictionary()


def lasting_length(model: Any, length: int) -> int:
    """At least as many tokens as any static cache of this model held before, so that nothing is compiled again for it.

    Stock `generate()` remembers the same on the model, which guidance leaves as it is.
    """
    _lengths[model] = max(length, _lengths.get(model, 0))
    return _lengths[model]


def _new_cache(model: Any, static_length: int | None) -> Any:
    """An empty cache for the model, or None where it brings its own kind (it then reads everything anew each step)."""
    supported = getattr(model, "_supports_default_dynamic_cache", None)
    accepted = forward_parameters(type(model))  # type: ignore[arg-type]
    if (supported is not None and not supported()) or not any(name in accepted for name in CACHE_NAMES):
        return None
    config = model.config.get_text_config(decoder=True)
    if static_length is not None and getattr(model, "_can_compile_fullgraph", False):
        return StaticCache(config=config, max_cache_len=lasting_length(model, static_length))
    return DynamicCache(config=config)


def _records_past(cache: Any) -> bool:
    return hasattr(cache, "activate_past_recording")


def _can_roll_back(model: Any, cache: Any) -> bool:
    croppable = getattr(cache, "is_croppable", None)
    if croppable is not None:
        return bool(croppable)
    return not getattr(model, "_is_stateful", False) and (_records_past(cache) or not any(cache.is_sliding))
