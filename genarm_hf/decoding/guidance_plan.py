"""Who guides, how strongly and from which prompt: a call's guidance, checked once and then only looked up."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..guidance import Alpha, as_alpha, signed_sum
from .reward_models import Reward
from .reward_prompts import RewardPrompt
from .shared_backbone import SharedBackbone, StreamPrompts, adapter_state, shared_backbone


@dataclass(frozen=True, eq=False)
class Term:
    """A causal LM whose log-probabilities are added to the base's, for every given reward model that it is part of.

    Attributes:
        name: what errors call it.
        model: the causal LM.
        prompt: its own prompt, None where it reads the base's.
        on_base: whether it is a LoRA adapter on the base's own weights, to be run in one pass with it.
        is_base: whether it is the base reading the base's prompt, whose logits are there anyway.
        first: index of the first given reward model that it is part of.
    """

    name: str
    model: Any
    prompt: RewardPrompt | None
    on_base: bool
    is_base: bool
    first: int


@dataclass(frozen=True)
class Guidance:
    """Who guides and how strongly, checked and resolved.

    A given reward model is a sum of causal LMs: one, or the two of an implicit reward. All that computes deals with
    these, the *terms*, each with an alpha of its own, and knows of no other kind of reward model. A causal LM that is
    part of several reward models, as a reference may be, is one term.

    Attributes:
        rewards: the given reward models.
        given_alpha: `(1 | batch, rewards)` float32, or a callable `step -> alpha`.
        given_prompts: a prompt per given reward model, None where it reads the base's.
        base: the base; None where it is not at hand.
        adapters: causal LMs that are LoRA adapters on the base's own weights.
        share_always: run these in one pass with it even where prompts of very different lengths make separate passes
            cheaper.
    """

    rewards: tuple[Reward, ...]
    given_alpha: Tensor | Callable[[int], Any]
    given_prompts: tuple[RewardPrompt | None, ...]
    base: Any = None
    adapters: tuple[Any, ...] = ()
    share_always: bool = False
    _columns: dict[tuple, list[float | Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _plan(self) -> tuple[tuple[Term, ...], Tensor]:
        """The terms, and the sign `(rewards, terms)` of each in each given reward model."""
        places: dict[tuple[int, int], int] = {}
        terms: list[Term] = []
        signs = torch.zeros(len(self.rewards), sum(len(reward.models) for reward in self.rewards))
        for first, (reward, prompt) in enumerate(zip(self.rewards, self.given_prompts, strict=True)):
            for name, model, sign in zip(reward.names, reward.models, reward.signs, strict=True):
                place = places.setdefault((id(model), id(prompt)), len(terms))
                if place == len(terms):
                    on_base = any(model is adapter for adapter in self.adapters)
                    terms.append(Term(name, model, prompt, on_base, model is self.base and prompt is None, first))
                signs[first, place] += sign
        return tuple(terms), signs[:, : len(terms)]

    @property
    def terms(self) -> tuple[Term, ...]:
        """Every causal LM that guides."""
        return self._plan[0]

    @cached_property
    def models(self) -> tuple[Any, ...]:
        """The terms' causal LMs."""
        return tuple(term.model for term in self.terms)

    @cached_property
    def prompts(self) -> tuple[RewardPrompt | None, ...]:
        """The terms' prompts."""
        return tuple(term.prompt for term in self.terms)

    @cached_property
    def alpha(self) -> Tensor | Callable[[int], Any]:
        """The terms' alphas `(1 | batch, terms)`, or a callable `step -> alpha`."""
        given = self.given_alpha
        if not callable(given):
            return self.term_alpha(given)
        return lambda step: self.term_alpha(given(step))

    def term_alpha(self, given: Any) -> Tensor:
        """Alphas `(1 | batch, terms)` of the terms, for those of the given reward models."""
        return as_alpha(given, len(self.rewards)) @ self._plan[1]

    def given(self, logprobs: Sequence[Tensor]) -> list[Tensor]:
        """What the given reward models say, from what the terms do."""
        rows = self._plan[1].tolist()
        # a model against itself is nobody's reward, and 0
        signs = [[(place, sign) for place, sign in enumerate(row) if sign] or [(0, 0.0)] for row in rows]
        return [signed_sum([logprobs[place] for place, _ in row], [sign for _, sign in row]) for row in signs]

    def given_counts(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Numbers of the terms, added up for each given reward model."""
        return tuple(int(total) for total in self._plan[1].abs() @ torch.tensor(counts, dtype=torch.float32))

    @cached_property
    def active(self) -> list[bool]:
        """Which terms can matter at all: those whose alpha is not zero in every row."""
        if callable(self.alpha):
            return [True] * len(self.models)
        return [bool(column.any()) for column in self.alpha.T]

    def at_work(self) -> Iterator[tuple[int, Term]]:
        """Index and term of each that has to read: it is not switched off, and not the base."""
        for index, (term, active) in enumerate(zip(self.terms, self.active, strict=True)):
            if active and not term.is_base:
                yield index, term

    def columns(self, expand: int, device: torch.device) -> list[float | Tensor]:
        """A fixed alpha by term, see [`alpha_columns`]; worked out once per call."""
        key = (expand, device)
        if key not in self._columns:
            assert isinstance(self.alpha, Tensor)
            self._columns[key] = alpha_columns(self.alpha[:, None], expand, device)
        return self._columns[key]

    @property
    def owners(self) -> list[Any]:
        """The causal LMs that read, None in the place of those that do not."""
        owners: list[Any] = [None] * len(self.terms)
        for index, term in self.at_work():
            owners[index] = term.model
        return owners

    def shared_with(self, base: Any, prompt: RewardPrompt | None = None, expand: int = 1) -> SharedBackbone | None:
        """The joint pass of the base and the reward models that can go through it; None where there are none.

        Args:
            base: the base.
            prompt: its own prompt, unexpanded, for reward models that read another one; None leaves these out.
            expand: how often each row is repeated.
        """
        streams = [
            (index, term.prompt)
            for index, term in self.at_work()
            if term.on_base and (prompt is not None or term.prompt is None) and adapter_state(term.model) is not None
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
        sizes = [prompt.ids.shape[0] for prompt in self.given_prompts if prompt is not None]
        alpha = self.alpha(0) if callable(self.alpha) else self.alpha
        return [*sizes, alpha.shape[0]] if alpha.shape[0] > 1 else sizes


def check_alpha(alpha: Alpha, arms: int) -> Tensor | Callable[[int], Any]:
    """Alpha in its one shape; a callable is tried once, so that its type cannot fail in the middle of a text."""
    if not callable(alpha) or isinstance(alpha, Tensor):
        return as_alpha(alpha, arms)
    try:
        first = alpha(0)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # from within
        raise TypeError(
            f"`alpha` as a callable takes the step as its one argument, and this one does not: {error}."
        ) from error
    as_alpha(first, arms)
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
