"""Replies of a policy in which every row may have its own trade-off, judged by several oracles at once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..evaluation.systems import drawn_ids, encode, reply_logprobs, step_logprobs
from ..playground import score
from ..playground.preferences import MAX_NEW_TOKENS
from .lab import Lab
from .samples import Sample
from .stages import Generate, generate_by_stages

ROWS, BATCH = 320, 64
"""Most rows that are drawn at once, and that the base reads at once."""


@dataclass
class Drawn:
    """Replies and what they took.

    Attributes:
        samples: a reply a row.
        calls: of `generate()`, as many as without stages (see [`generate_by_stages`]).
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


def _draw(
    lab: Lab, generate: Generate, prompts: Sequence[str], objectives: Sequence[str], alpha: Tensor | None, drawn: Drawn
) -> None:
    inputs = encode(lab.tokenizer, prompts)
    started = time.perf_counter()
    output = generate_by_stages(generate, inputs, lab.tokenizer.eos_token_id, alpha, max_new_tokens=MAX_NEW_TOKENS)
    drawn.seconds += time.perf_counter() - started
    drawn.calls += 1
    drawn.passes += len(output.scores)
    replies = output.sequences[:, inputs["input_ids"].shape[1] :]
    own = step_logprobs(output.scores, replies).tolist()
    written = [drawn_ids(row, lab.strong, lab.tokenizer) for row in replies.tolist()]
    lines = [{"prompt": prompt, "reply_ids": ids} for prompt, ids in zip(prompts, written, strict=True)]
    base = reply_logprobs(lab.strong, lab.tokenizer, lines, BATCH)
    for prompt, ids, nats, of_base in zip(prompts, written, own, base, strict=True):
        reply = lab.tokenizer.decode(ids, skip_special_tokens=True)
        points = {objective: score(objective, prompt, reply) for objective in objectives}
        kl = sum(nats[: len(ids)]) - sum(of_base)
        drawn.samples.append({**points, "kl": kl, "tokens": len(ids), "reply": reply})
