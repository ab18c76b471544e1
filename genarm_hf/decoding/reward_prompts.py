"""`reward_inputs`: prompts that reward models read instead of the base's."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..vocabulary import vocab_size

_IDS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class RewardPrompt:
    """A prompt of the reward model's own: `ids` and `mask` (1 = token), each `(batch, length)`."""

    ids: Tensor
    mask: Tensor

    def expanded(self, times: int) -> "RewardPrompt":
        """Every row `times` times in a row, as `generate()` expands its own inputs."""
        if times == 1:
            return self
        return RewardPrompt(self.ids.repeat_interleave(times, 0), self.mask.repeat_interleave(times, 0))


def as_reward_prompts(reward_inputs: Any, arms: int) -> tuple[RewardPrompt | None, ...]:
    """`reward_inputs` as one prompt per reward model.

    Args:
        reward_inputs: a `BatchEncoding` (or mapping with `input_ids` and perhaps `attention_mask`, or a tensor of ids)
            for all reward models, a sequence of one per reward model (None: reads the base's prompt), or None.
        arms: how many reward models there are.

    Raises:
        ValueError: wrong number, or prompts of different batch sizes.
        TypeError: something else was given.
    """
    if reward_inputs is None:
        return (None,) * arms
    if isinstance(reward_inputs, (list, tuple)):
        if len(reward_inputs) != arms:
            raise ValueError(
                f"`reward_inputs` must be one encoding, or one per reward model ({arms}); got {len(reward_inputs)}."
            )
        prompts = tuple(None if item is None else _reward_prompt(item) for item in reward_inputs)
    else:
        prompts = (_reward_prompt(reward_inputs),) * arms
    sizes = {prompt.ids.shape[0] for prompt in prompts if prompt is not None}
    if len(sizes) > 1:
        raise ValueError(f"`reward_inputs` must all have the same batch size, got {sorted(sizes)}.")
    return prompts


def _reward_prompt(item: Any) -> RewardPrompt:
    ids = item if isinstance(item, Tensor) else item.get("input_ids") if hasattr(item, "get") else None
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in _IDS or not ids.numel():
        raise TypeError(
            "`reward_inputs` must hold `input_ids` of shape (batch, length): pass `tokenizer(texts, "
            "return_tensors='pt', padding=True, "
            f"padding_side='left')`. Got {type(item).__name__}."
        )
    mask = None if isinstance(item, Tensor) else item.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape or mask.is_complex()):
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"`attention_mask` in `reward_inputs` must have the shape of its `input_ids`, {tuple(ids.shape)}; got "
            f"{found}."
        )
    if mask is not None and bool((mask[:, -1] == 0).any()):
        raise ValueError(
            "`reward_inputs` are padded on the right; the continuation must follow the text. Pad on the left."
        )
    return RewardPrompt(ids, torch.ones_like(ids) if mask is None else mask)


def check_reward_prompt(prompt: RewardPrompt, model: Any, name: str) -> None:
    """Refuse a reward prompt with ids that its reward model does not have: it was made by another tokenizer."""
    smallest, largest, size = int(prompt.ids.min()), int(prompt.ids.max()), vocab_size(model)
    if smallest < 0 or largest >= size:
        raise ValueError(
            f"`reward_inputs` for {name} holds id {smallest if smallest < 0 else largest}, and the model has {size} "
            "tokens. Encode the text with the reward model's own tokenizer."
        )
