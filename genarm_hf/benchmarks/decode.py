"""Guided decoding with two separate models against the physical sum `1 / (t_base + t_arm)` of each alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import genarm_hf

from .shapes import SHAPES, parameters
from .timing import alternate, ratio

# shape, batch size, new tokens, and the fraction of the physical sum that is asked for
CASES: tuple[tuple[str, int, int, float], ...] = (("15M", 1, 64, 0.95), ("1M", 1, 128, 0.85), ("1M", 16, 96, 0.93))


def naive_second_model(arm: Any, alpha: float) -> Any:
    """What people write first: a processor that runs the second model without a cache, from the first token on."""
    from transformers import LogitsProcessor

    class NaiveGuidance(LogitsProcessor):
        @torch.no_grad()
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return scores + alpha * arm(input_ids, use_cache=False).logits[:, -1].float().log_softmax(-1)

    return NaiveGuidance()


def bench_decode(
    cases: Sequence[tuple[str, int, int, float]] = CASES,
    repeats: int = 7,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    naive: bool = True,
    progress: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Greedy decoding of base alone, reward model alone, both guided, and the naive processor, in turn.

    Args:
        cases: `(shape, batch, new tokens, fraction asked for)`.
        repeats: rounds that count, after one that does not.
        dtype: of both models.
        device: where both are.
        naive: whether to run the naive second-model processor beside.
        progress: called after each run.

    Yields:
        a row per case: tokens per second of each run (median), and `of_physical_sum`, how much of `1 / (t_base +
            t_arm)` guided decoding reaches.
    """
    for shape, batch, new_tokens, asked in cases:
        base, arm = (SHAPES[shape].build(seed, dtype, device) for seed in (0, 1))
        prompt = torch.randint(3, SHAPES[shape].vocab, (batch, 16), device=device)
        times = alternate(_runs(base, arm, prompt, new_tokens, naive), repeats, progress=progress)
        both = [a + b for a, b in zip(times["base"], times["arm"], strict=True)]
        yield {
            "shape": shape,
            "parameters": parameters(base),
            "batch": batch,
            "new_tokens": new_tokens,
            "dtype": str(dtype).removeprefix("torch."),
            "tokens_per_second": {
                name: batch * new_tokens * ratio([1.0] * repeats, t)["median"] for name, t in times.items()
            },
            "of_physical_sum": ratio(both, times["guided"]),
            "asked": asked,
            "of_base": ratio(times["guided"], times["base"]),
        }


def _runs(base: Any, arm: Any, prompt: Any, new_tokens: int, naive: bool) -> dict[str, Callable[[], Any]]:
    settings = {
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    genarm_hf.install()
    runs: dict[str, Callable[[], Any]] = {
        "base": lambda: base.generate(prompt, **settings),
        "arm": lambda: arm.generate(prompt, **settings),
        "guided": lambda: base.generate(prompt, reward_models=[arm], alpha=1.0, **settings),
    }
    if naive:
        runs["naive"] = lambda: base.generate(prompt, logits_processor=[naive_second_model(arm, 1.0)], **settings)
    return runs
