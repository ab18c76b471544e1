"""One `generate()` call: where its prompt is, how its rows were repeated, and the checks before a model runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .guidance_plan import Guidance, Term
from .reward_models import check_positions
from .reward_prompts import RewardPrompt, check_reward_prompt
from .reward_reader import RewardReader
from .shared_backbone import SharedBackbone


@dataclass
class GuidedCall:
    """State of one call, in the positions of the base's text.

    Attributes:
        guidance: who guides, for the unexpanded batch.
        expand: how often each row was repeated (beams, returned sequences).
        prompt_length: tokens of the base's prompt.
        prompt_ids: `(batch, ids)` the prompt's ids, unexpanded; fewer than `prompt_length` where a cache or embeddings
            hold the rest.
        prompt_mask: `(batch, prompt_length)` expanded, None without padding.
        output_rewards: whether every reward model is to score the result.
        assisted: whether drafts are asked for, by an assistant or otherwise.
        speculation: what drafting did; None without drafts.
        shared: the joint pass that this call uses; None without one.
        readers: who reads in passes of their own, None for the others; empty before the cache is made.
    """

    guidance: Guidance
    expand: int = 1
    prompt_length: int = 0
    prompt_ids: Tensor | None = None
    prompt_mask: Tensor | None = None
    output_rewards: bool = False
    assisted: bool = False
    speculation: Any = None
    shared: SharedBackbone | None = None
    readers: list[RewardReader | None] = field(default_factory=list)

    def _readers(self) -> Iterable[Term]:
        """Who will read: the terms at work, and all where rewards are asked for."""
        return self.guidance.terms if self.output_rewards else [term for _, term in self.guidance.at_work()]

    def check_inputs(self, rows: int, length: int | None) -> None:
        """The last look before any model runs.

        Args:
            rows: prompts in the batch.
            length: tokens of the prompt that reward models read; None where it has no ids.

        Raises:
            ValueError: several prompts where drafts are asked for, alpha or reward prompts for another batch, or a
                prompt that a reward model cannot read.
        """
        if self.assisted and rows > 1:
            raise ValueError(
                f"Assisted decoding (`assistant_model`, `prompt_lookup_num_tokens`) takes one prompt at a time, and "
                f"the inputs have {rows} rows. Generate them one by one, or as a batch without drafts."
            )
        self.guidance.check_rows(rows)
        for term in self._readers():
            if term.prompt is not None:
                check_reward_prompt(term.prompt, term.model, term.name)
            elif length is None:
                raise ValueError(
                    f"The prompt is given as `inputs_embeds`, which {term.name} cannot read. Pass its text as "
                    "`reward_inputs=`."
                )
            check_positions(term.model, term.name, length if term.prompt is None else term.prompt.ids.shape[1])  # type: ignore[arg-type]

    def new_tokens(self, max_length: int) -> int:
        """Tokens to be generated at most, where `max_length` counts the prompt's ids too."""
        assert self.prompt_ids is not None
        return max_length - self.prompt_ids.shape[1]

    def check_total_length(self, max_length: int) -> None:
        """Refuse a generation that outgrows a reward model's positions; `max_length` counts the prompt's ids."""
        new_tokens = self.new_tokens(max_length)
        for term in self._readers():
            length = self.prompt_length if term.prompt is None else term.prompt.ids.shape[1]
            check_positions(term.model, term.name, length, new_tokens)

    def place_prompt(self, generation_config: Any, embeds: Tensor | None, past: int) -> None:
        """Find where the prompt ends: ids may be the whole text, or only what is new behind a cached `past`."""
        assert self.prompt_ids is not None
        length = self.prompt_ids.shape[1]
        if embeds is not None:
            self.prompt_length = embeds.shape[1]
            return
        masked = (
            getattr(generation_config, "_mask_length", length)
            if self.prompt_mask is None
            else self.prompt_mask.shape[1]
        )
        self.prompt_length = length if masked == length or past == 0 else past + length

    def prompt(self) -> RewardPrompt | None:
        """The base's whole prompt, unexpanded; None where embeddings or a cache hold some of it."""
        ids = self.prompt_ids
        if ids is None or (self.prompt_mask is not None and self.prompt_mask.shape[1] != ids.shape[1]):
            return None
        mask = torch.ones_like(ids) if self.prompt_mask is None else self.prompt_mask[:: self.expand]
        return RewardPrompt(ids, mask)

    def past_ids(self, start: int, end: int) -> Tensor:
        """Ids `(rows, end - start)` of the prompt that a cache already holds.

        Raises:
            ValueError: only what is new was passed.
        """
        assert self.prompt_ids is not None
        if self.prompt_ids.shape[1] != self.prompt_length:
            raise ValueError(
                f"`past_key_values` holds {end} tokens, of which the reward models have read {start}. Pass the whole "
                f"text as `input_ids` "
                "(with the cache, only what is new is computed for the base), or `reward_inputs=`."
            )
        return self.prompt_ids.repeat_interleave(self.expand, 0)[:, start:end]
