"""What guided decoding must equal: everything computed anew for every token, without caches, by the formula itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ..conftest import PAD


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def next_logits(model: Any, ids: Tensor, mask: Tensor, last: int = 1, **inputs: Any) -> Tensor:
    """Logits of the last positions, float32, by one forward over everything."""
    if model.config.is_encoder_decoder:
        return model(**inputs, decoder_input_ids=ids, use_cache=False).logits[:, -last:].float()
    return (
        model(ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, **inputs)
        .logits[:, -last:]
        .float()
    )


def alpha_rows(alpha: Any, step: int, arms: int) -> Tensor:
    """`(1 | batch, arms)`, written apart from the package's own."""
    value = torch.as_tensor(alpha(step) if callable(alpha) else alpha, dtype=torch.float32)
    return value.expand(1, arms) if value.ndim == 0 else value[None] if value.ndim == 1 else value


def reward_terms(arms: Sequence[Any], alpha: Tensor, contexts: Sequence[tuple[Tensor, Tensor]], vocab: int) -> Tensor:
    """`sum_i alpha_i log pi_i` `(batch, vocab)`, with -inf for tokens that an active reward model lacks."""
    total = torch.zeros(contexts[0][0].shape[0], vocab)
    for i, (arm, (ids, mask)) in enumerate(zip(arms, contexts, strict=True)):
        size = arm.config.get_text_config().vocab_size
        unknown = ids >= size
        logprobs = next_logits(arm, ids.masked_fill(unknown, 0), mask.masked_fill(unknown, 0))[:, 0].log_softmax(-1)[
            :, :vocab
        ]
        for row in range(total.shape[0]):
            a = float(alpha[row % alpha.shape[0] if alpha.shape[0] > 1 else 0, i])
            if a == 0:
                continue
            total[row, : logprobs.shape[1]] += a * logprobs[row]
            total[row, logprobs.shape[1] :] = -torch.inf
    return total


def expand(rows: Tensor, times: int) -> Tensor:
    return rows.repeat_interleave(times, 0)


class StatelessGuidance(LogitsProcessor):
    """Adds the rewards inside a stock loop, recomputing every reward model from the first token at every step."""

    def __init__(
        self,
        arms: Sequence[Any],
        alpha: Any,
        prompt: dict[str, Tensor],
        reward_prompts: Any = None,
        normalize: bool = False,
    ):
        self.arms, self.alpha, self.normalize = arms, alpha, normalize
        self.prompt_length = prompt["input_ids"].shape[1]
        self.masks = prompt["attention_mask"]
        self.reward_prompts = reward_prompts or [None] * len(arms)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        times = input_ids.shape[0] // self.masks.shape[0]
        new = input_ids[:, self.prompt_length :]
        contexts = []
        for own in self.reward_prompts:
            if own is None:
                ids, mask = input_ids, expand(self.masks, times)
            else:
                ids, mask = torch.cat([expand(own["input_ids"], times), new], 1), expand(own["attention_mask"], times)
            mask = torch.cat([mask, torch.ones(len(ids), ids.shape[1] - mask.shape[1], dtype=mask.dtype)], 1)
            contexts.append((ids, mask))
        alpha = alpha_rows(self.alpha, new.shape[1], len(self.arms))
        alpha = expand(alpha, times) if alpha.shape[0] > 1 else alpha
        guided = scores.float() + reward_terms(self.arms, alpha, contexts, scores.shape[-1])
        return guided.log_softmax(-1) if self.normalize else guided


def reference_greedy(
    base: Any,
    arms: Sequence[Any],
    alpha: Any,
    prompt: dict[str, Tensor],
    new_tokens: int,
    eos: int,
    reward_prompts: Any = None,
) -> Tensor:
    """Greedy decoding by a bare loop; rows end at `eos` and are padded."""
    guidance = StatelessGuidance(arms, alpha, prompt, reward_prompts)
    ids, mask = prompt["input_ids"], prompt["attention_mask"]
    done = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(new_tokens):
        tokens = guidance(ids, next_logits(base, ids, mask)[:, 0]).argmax(-1)
        tokens = torch.where(done, PAD, tokens)
        done |= tokens == eos
        ids = torch.cat([ids, tokens[:, None]], 1)
        mask = torch.cat([mask, torch.ones_like(tokens[:, None])], 1)
        if done.all():
            break
    return ids
