"""Guided decoding with two separate models against the physical sum `1 / (t_base + t_arm)` of each alone.

Beside it, two logits processors that add a second model to stock `generate()`: the one that people write first, without
a cache, and transformers' own for classifier-free guidance, which has one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import genarm_hf

from .calls import greedy
from .shapes import SHAPES, parameters
from .timing import alternate, ratio

# shape, batch size, new tokens, and the fraction of the physical sum that is asked for
CASES: tuple[tuple[str, int, int, float], ...] = (("15M", 1, 64, 0.95), ("1M", 1, 128, 0.85), ("1M", 16, 96, 0.93))
ALPHA = 1.0


def naive_second_model(arm: Any, alpha: float) -> Any:
    """What people write first: a processor that runs the second model without a cache, from the first token on."""
    from transformers import LogitsProcessor

    class NaiveGuidance(LogitsProcessor):
        @torch.no_grad()
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return scores + alpha * arm(input_ids, use_cache=False).logits[:, -1].float().log_softmax(-1)

    return NaiveGuidance()


def cfg_second_model(arm: Any, prompt: Any, alpha: float) -> Any:
    """The processor of transformers for classifier-free guidance, with the reward model as its second model.

    It gives `s log pi_base + (1 - s) log pi_arm`. With `s = 1 / (1 + alpha)` that is the guided policy at temperature
    `1 + alpha`: the same greedy tokens, other samples. It keeps a cache, for one call, but no padding and no beams.
    """
    from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

    return UnbatchedClassifierFreeGuidanceLogitsProcessor(1 / (1 + alpha), arm, unconditional_ids=prompt)


def bench_decode(
    cases: Sequence[tuple[str, int, int, float]] = CASES,
    repeats: int = 7,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    compiled: bool = False,
    progress: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Greedy decoding of base alone, reward model alone, both guided, and the two processors, in turn.

    Args:
        cases: `(shape, batch, new tokens, fraction asked for)`.
        repeats: rounds that count, after one that does not.
        dtype: of both models.
        device: where both are.
        compiled: static cache and compiled forwards; the processors run their second model as they always do.
        progress: called after each run.

    Yields:
        a row per case: tokens per second of each run (median), `of_physical_sum`, how much of `1 / (t_base + t_arm)`
        guided decoding reaches, and times relative to the base alone.
    """
    for shape, batch, new_tokens, asked in cases:
        base, arm = (SHAPES[shape].build(seed, dtype, device) for seed in (0, 1))
        prompt = torch.randint(3, SHAPES[shape].vocab, (batch, 16), device=device)
        times = alternate(_runs(base, arm, prompt, new_tokens, compiled), repeats, 1 + compiled, progress)
        both = [a + b for a, b in zip(times["base"], times["arm"], strict=True)]
        yield {
            "shape": shape,
            "parameters": parameters(base),
            "batch": batch,
            "new_tokens": new_tokens,
            "dtype": str(dtype).removeprefix("torch."),
            "cache": "static, compiled" if compiled else "dynamic, eager",
            "tokens_per_second": {
                name: batch * new_tokens * ratio([1.0] * repeats, t)["median"] for name, t in times.items()
            },
            "of_physical_sum": ratio(both, times["guided"]),
            "asked": asked,
            "of_base": {name: ratio(t, times["base"]) for name, t in times.items() if name != "base"},
            "physical_of_base": ratio(both, times["base"]),
        }


def _runs(base: Any, arm: Any, prompt: Any, new_tokens: int, compiled: bool) -> dict[str, Callable[[], Any]]:
    settings = greedy(prompt, new_tokens, compiled)
    genarm_hf.install()

    def processed(make: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: base.generate(prompt, logits_processor=[make()], **settings)

    return {
        "base": lambda: base.generate(prompt, **settings),
        "arm": lambda: arm.generate(prompt, **settings),
        "guided": lambda: base.generate(prompt, reward_models=[arm], alpha=ALPHA, **settings),
        "CFG processor": processed(lambda: cfg_second_model(arm, prompt, ALPHA)),
        "naive": processed(lambda: naive_second_model(arm, ALPHA)),
    }
