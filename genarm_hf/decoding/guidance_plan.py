"""Who guides, how strongly and from which prompt: a call's guidance, checked once and then only looked up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..guidance import Alpha, as_alpha
from .reward_prompts import RewardPrompt
from .shared_backbone import SharedBackbone, StreamPrompts, adapter_state, shared_backbone


@dataclass(frozen=True)
class Guidance:
    """Who guides and how strongly, checked and resolved.

    Attributes:
        models: the reward models' causal LMs.
        alpha: `(1 | batch, arms)` float32, or a callable `step -> alpha`.
        prompts: a prompt per reward model, None where it reads the base's.
        on_base: which reward models are LoRA adapters on the base's own weights, to be run in one pass with it.
        share_always: run them so even where prompts of very different lengths make separate passes cheaper.
    """

    models: tuple[Any, ...]
    alpha: Tensor | Callable[[int], Any]
    prompts: tuple[RewardPrompt | None, ...]
    on_base: tuple[bool, ...] = ()
    share_always: bool = False
    _columns: dict[tuple, list[float | Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def active(self) -> list[bool]:
        """Which reward models can matter at all: those whose alpha is not zero in every row."""
        if callable(self.alpha):
            return [True] * len(self.models)
        return [bool(column.any()) for column in self.alpha.T]

    def at_work(self) -> Iterator[tuple[int, Any, RewardPrompt | None]]:
        """Index, causal LM and own prompt of each reward model that is not switched off."""
        for index, (model, prompt, active) in enumerate(zip(self.models, self.prompts, self.active, strict=True)):
            if active:
                yield index, model, prompt

    def columns(self, expand: int, device: torch.device) -> list[float | Tensor]:
        """A fixed alpha by reward model, see [`alpha_columns`]; worked out once per call."""
        key = (expand, device)
        if key not in self._columns:
            assert isinstance(self.alpha, Tensor)
            self._columns[key] = alpha_columns(self.alpha[:, None], expand, device)
        return self._columns[key]

    @property
    def owners(self) -> list[Any]:
        """The reward models at work, None in the place of those that are switched off."""
        return [model if active else None for model, active in zip(self.models, self.active, strict=True)]

    def shared_with(self, base: Any, prompt: RewardPrompt | None = None, expand: int = 1) -> SharedBackbone | None:
        """The joint pass of the base and the reward models that can go through it; None where there are none.

        Args:
            base: the base.
            prompt: its own prompt, unexpanded, for reward models that read another one; None leaves these out.
            expand: how often each row is repeated.
        """
        if not any(self.on_base):
            return None
        streams = [
            (index, own)
            for index, model, own in self.at_work()
            if self.on_base[index] and (prompt is not None or own is None) and adapter_state(model) is not None
        ]
        if not streams:
            return None
        arms, own_prompts = zip(*streams, strict=True)
        prompts = None
        if prompt is not None and any(own_prompts):
            prompts = StreamPrompts.of([(own or prompt).expanded(expand) for own in (None, *own_prompts)])
        return shared_backbone(base, self.models, arms, prompts)

    @property
    def batch_size(self) -> int | None:
        """Rows that alpha or the reward prompts are made for; None where any number fits."""
        return next(iter(self._batch_sizes()), None)

    def check_rows(self, rows: int) -> None:
        """Refuse a batch of another size than alpha and reward prompts are made for.

        Raises:
            ValueError: as said.
        """
        for size in self._batch_sizes():
            if size != rows:
                raise ValueError(
                    f"`alpha` or `reward_inputs` is made for a batch of {size}, and the inputs have {rows} rows. Give "
                    "one row per prompt; beams and returned sequences are expanded by themselves."
                )

    def _batch_sizes(self) -> list[int]:
        sizes = [prompt.ids.shape[0] for prompt in self.prompts if prompt is not None]
        alpha = as_alpha(self.alpha(0), len(self.models)) if callable(self.alpha) else self.alpha
        return [*sizes, alpha.shape[0]] if alpha.shape[0] > 1 else sizes


def check_alpha(alpha: Alpha, arms: int) -> Tensor | Callable[[int], Any]:
    """Alpha in its one shape; a callable is tried once, so that its type cannot fail in the middle of a text."""
    if not callable(alpha) or isinstance(alpha, Tensor):
        return as_alpha(alpha, arms)
    as_alpha(alpha(0), arms)
    return alpha


def alpha_columns(alpha: Tensor, expand: int, device: torch.device) -> list[float | Tensor]:
    """Split `(batch, positions, arms)` by reward model; a column of one value becomes a float."""
    columns: list[float | Tensor] = []
    for column in alpha.unbind(-1):
        first = column.flatten()[0]
        if bool((column == first).all()):
            columns.append(float(first))
        else:
            columns.append(column.repeat_interleave(expand, 0)[..., None].to(device))
    return columns
