"""One paged cache for a base and its reward models, for continuous batching.

transformers keeps keys and values of all running requests in blocks of memory: a block holds some tokens of a request
for all layers of the model. The cache built here has the base's layers followed by those of every reward model, so that
whatever happens to a block (allocation, eviction, prefix sharing, forks, offloading) happens to all models alike, and
nothing of it is reimplemented. A reward model writes through a view, which finds its layers in the joint cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cache import PagedAttentionCache, group_layers_by_attn_type
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads


@dataclass(frozen=True)
class Section:
    """One model's layers in the joint cache.

    Attributes:
        start: the first of its layers there.
        kinds: the attention type of each of its layers, `full_attention` or `sliding_attention`.
        pages: layers of the joint cache that hold one layer of the model; more than one where its keys are wider than
            the base's.
        own: key-value heads and head size of the model.
        page: those of the joint cache, the base's.
    """

    start: int
    kinds: tuple[str, ...]
    pages: int
    own: tuple[int, int]
    page: tuple[int, int]

    @property
    def layers(self) -> tuple[str, ...]:
        """Attention types of its layers in the joint cache."""
        return tuple(kind for kind in self.kinds for _ in range(self.pages))

    def mask(self, masks: Any) -> Any:
        """What the model expects of the masks by attention type: a dictionary only where it has several types."""
        kinds = set(self.kinds)
        return masks[self.kinds[0]] if isinstance(masks, dict) and len(kinds) == 1 else masks


class JointConfig:
    """The base's text config, with the layers of all models: what transformers sizes and lays out the cache from."""

    def __init__(self, configs: Sequence[Any], sections: Sequence[Section], window: int | None):
        self._base = configs[0]
        self.layer_types = [kind for section in sections for kind in section.layers]
        self.num_hidden_layers = len(self.layer_types)
        self.num_key_value_heads, self.head_dim = sections[0].page
        self.sliding_window = window
        # one model computes at a time: memory is reserved for the largest
        self.hidden_size = max(config.hidden_size for config in configs)
        queries = max(config.num_attention_heads * find_head_dim(config) for config in configs)
        self.num_attention_heads = -(-queries // self.head_dim)

    def __getattr__(self, name: str) -> Any:
        # attributes of the instance come first; `_base` itself is missing while a copy is being built
        if name == "_base":
            raise AttributeError(name)
        return getattr(self._base, name)

    def get_text_config(self, *args: Any, **kwargs: Any) -> "JointConfig":
        """Itself."""
        return self


def joint_layout(models: Sequence[Any], names: Sequence[str]) -> tuple[JointConfig, list[Section]]:
    """Lay the layers of several models out in one cache.

    Args:
        models: the base and the reward models.
        names: what errors call them.

    Raises:
        ValueError: a model has layers that transformers has no paged cache for, or two have sliding windows of
            different sizes.
    """
    configs = [model.config.get_text_config(decoder=True) for model in models]
    page = _key_shape(configs[0])
    sections: list[Section] = []
    windows: dict[int, str] = {}
    for config, name in zip(configs, names, strict=True):
        kinds, own = _layer_kinds(config, name), _key_shape(config)
        start = sections[-1].start + len(sections[-1].layers) if sections else 0
        pages = -(-(own[0] * own[1]) // (page[0] * page[1]))
        sections.append(Section(start, kinds, pages, own, page))
        if "sliding_attention" in kinds:
            windows[config.sliding_window] = name
    if len(windows) > 1:
        found = " and ".join(f"{size} ({name})" for size, name in windows.items())
        raise ValueError(
            f"Continuous batching keeps one size of sliding window, and the models have {found}. Use generate()."
        )
    return JointConfig(configs, sections, next(iter(windows), None)), sections


def _key_shape(config: Any) -> tuple[int, int]:
    return find_num_key_value_heads(config), find_head_dim(config)


def _layer_kinds(config: Any, name: str) -> tuple[str, ...]:
    try:
        groups = group_layers_by_attn_type(config)
    except ValueError as error:
        raise ValueError(
            f"{name} has layers that transformers' continuous batching has no paged cache for ({error}). Use "
            "generate()."
        ) from error
    kinds = {index: kind for kind, indices in groups.items() for index in indices}
    return tuple(kinds[index] for index in sorted(kinds))


class SectionCache(PagedAttentionCache):
    """A model's view of the joint cache. Attention layers use `update` of it and nothing else."""

    def __init__(self, cache: Any, section: Section):
        # not a cache of its own: the parent's class is what attention layers look for
        self.__dict__.update(joint=cache, section=section)

    @torch.compiler.disable
    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values of one layer, and return all that the queries see.

        Args:
            key_states: `(1, heads, new, head_dim)`.
            value_states: likewise.
            layer_idx: the layer, as the model counts.
            kwargs: of the attention layer, where indices come from; changed in place as the joint cache does.
        """
        section = self.section
        first = section.start + layer_idx * section.pages
        if section.own == section.page:
            return self.joint.update(key_states, value_states, first, kwargs)
        parts = []
        pages = zip(_to_pages(key_states, section), _to_pages(value_states, section), strict=True)
        for offset, (keys, values) in enumerate(pages):
            used = dict(kwargs)  # the joint cache replaces what it reads
            parts.append(self.joint.update(keys, values, first + offset, used))
        kwargs.update(used)
        return _from_pages([keys for keys, _ in parts], section), _from_pages([values for _, values in parts], section)


def _to_pages(states: Tensor, section: Section) -> list[Tensor]:
    """Cut `(1, heads, tokens, head_dim)` into pages of the joint cache's shape, the last one padded with zeros."""
    heads, width = section.page
    flat = states[0].transpose(0, 1).flatten(1)
    padded = torch.nn.functional.pad(flat, (0, section.pages * heads * width - flat.shape[1]))
    pages = padded.view(len(flat), section.pages, heads, width)
    return [page.transpose(0, 1)[None] for page in pages.unbind(1)]


def _from_pages(pages: Sequence[Tensor], section: Section) -> Tensor:
    """Put pages of the joint cache together again, `(1, heads, tokens, head_dim)`."""
    heads, width = section.own
    flat = torch.cat([page[0].transpose(0, 1).flatten(1) for page in pages], 1)
    return flat[:, : heads * width].view(len(flat), heads, width).transpose(0, 1)[None]
