"""Replies of a policy in which every row may have its own trade-off, judged by several oracles at once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..evaluation.systems import encode, step_logprobs
from ..guidance import token_logprobs
from ..playground import score
from ..playground.preferences import MAX_NEW_TOKENS
from ..scoring import read_logits
from .lab import Lab
from .samples import Sample

ROWS = 320
"""Most rows of one `generate()` call."""

Generate = Callable[..., Any]
"""`generate(alpha, **inputs and options of generate())` with `alpha` of shape `(rows, reward models)`, or None."""


@dataclass
class Drawn:
    """Replies and what they took.

    Attributes:
        samples: a reply a row.
        calls: of `generate()`.
        passes: steps of generation: each reads the base's weights once, for all rows at once.
        seconds: spent generating.
    """

    samples: list[Sample] = field(default_factory=list)
    calls: int = 0
    passes: int = 0
    seconds: float = 0.0


def draw(
    lab: Lab,
    generate: Generate,
    prompts: Sequence[str],
    seed: int,
    objectives: Sequence[str],
    alpha: Tensor | None = None,
) -> Drawn:
    """One reply to each prompt, sampled from the policy itself (temperature 1).

    Args:
        lab: its strong base is what distances are measured from.
        generate: the policy's.
        prompts: one a row; the same prompt may come several times.
        seed: of sampling.
        objectives: whose oracles judge.
        alpha: `(rows, reward models)`, each row's own.

    Returns:
        samples with a field an objective (points), `kl` (log-ratio of policy and base in nats, whose mean estimates the
        divergence), `tokens` and `reply`.
    """
    drawn = Drawn()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), ROWS):
            rows = slice(start, start + ROWS)
            _draw(lab, generate, prompts[rows], objectives, None if alpha is None else alpha[rows], drawn)
    return drawn


@torch.no_grad()
def _draw(
    lab: Lab, generate: Generate, prompts: Sequence[str], objectives: Sequence[str], alpha: Tensor | None, drawn: Drawn
) -> None:
    inputs = encode(lab.tokenizer, prompts)
    started = time.perf_counter()
    output = generate(
        alpha,
        **inputs,
        do_sample=True,
        top_k=0,
        max_new_tokens=MAX_NEW_TOKENS,
        output_logits=True,
        return_dict_in_generate=True,
    )
    drawn.seconds += time.perf_counter() - started
    drawn.calls += 1
    drawn.passes += len(output.logits)
    replies = output.sequences[:, inputs["input_ids"].shape[1] :]
    mask = ~_ended(replies, lab.tokenizer.eos_token_id)
    ratios = (step_logprobs(output.logits, replies) - _base_logprobs(lab, inputs, replies, mask)) * mask
    texts = lab.tokenizer.batch_decode(replies, skip_special_tokens=True)
    for prompt, text, kl, tokens in zip(prompts, texts, ratios.sum(-1).tolist(), mask.sum(-1).tolist(), strict=True):
        points = {objective: score(objective, prompt, text) for objective in objectives}
        drawn.samples.append({**points, "kl": kl, "tokens": tokens, "reply": text})


def _ended(replies: Tensor, end: int) -> Tensor:
    """Which places come after the end of their text.

    Example:
        >>> _ended(torch.tensor([[5, 1, 1], [5, 6, 1]]), end=1).tolist()
        [[False, False, True], [False, False, False]]
    """
    ends = replies == end
    return (ends.cumsum(-1) - ends.long()) > 0


def _base_logprobs(lab: Lab, inputs: dict[str, Tensor], replies: Tensor, mask: Tensor) -> Tensor:
    ids = torch.cat([inputs["input_ids"], replies], 1)
    read = torch.cat([inputs["attention_mask"], mask.long()], 1)
    logits = read_logits(lab.strong, ids, read, replies.shape[1] + 1)
    return token_logprobs(logits, ids[:, -replies.shape[1] - 1 :])[:, 1:]
