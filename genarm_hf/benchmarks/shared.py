"""LoRA reward models on the base's own weights: one pass against two, and against the base alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import genarm_hf

from ..adapters import share_weights
from .shapes import SHAPES, parameters
from .timing import alternate, ratio

# shape, batch size, number of reward models
CASES: tuple[tuple[str, int, int], ...] = (("98M", 1, 1), ("98M", 1, 2), ("98M", 8, 1))

_WARMUP = 2  # rounds that do not count


def lora_reward_model(base: Any, seed: int, rank: int = 16) -> Any:
    """A reward model of random LoRA weights on all linear layers, over the base's own tensors."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(share_weights(base), config, autocast_adapter_dtype=False).eval()


def bench_shared(
    cases: Sequence[tuple[str, int, int]] = CASES,
    new_tokens: int = 32,
    prompt_length: int = 64,
    compiled: bool = False,
    repeats: int = 5,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    progress: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Greedy decoding of the base alone, with its reward models in one pass, and in separate passes, in turn.

    Args:
        cases: `(shape, batch, reward models)`.
        new_tokens: tokens to generate.
        prompt_length: tokens of the prompt.
        compiled: static cache and compiled forwards.
        repeats: rounds that count.
        dtype: of base and adapters.
        device: where they are.
        progress: called after each run.

    Yields:
        a row per case: time of one pass and of separate passes, relative to the base alone; of whole calls, and of a
        step behind the prefill.
    """
    for shape, batch, count in cases:
        base = SHAPES[shape].build(0, dtype, device)
        arms = [lora_reward_model(base, seed + 1) for seed in range(count)]
        prompt = torch.randint(3, SHAPES[shape].vocab, (batch, prompt_length), device=device)
        clocks = {name: _Clock() for name in ("base", "one pass", "separate")}
        times = alternate(_runs(base, arms, prompt, new_tokens, compiled, clocks), repeats, _WARMUP, progress)
        steps = {name: clock.steps[_WARMUP:] for name, clock in clocks.items()}
        yield {
            "shape": shape,
            "parameters": parameters(base),
            "batch": batch,
            "reward_models": count,
            "dtype": str(dtype).removeprefix("torch."),
            "cache": "static, compiled" if compiled else "dynamic, eager",
            "one_pass_of_base": ratio(times["one pass"], times["base"]),
            "separate_of_base": ratio(times["separate"], times["base"]),
            "step_one_pass_of_base": ratio(steps["one pass"], steps["base"]),
            "step_separate_of_base": ratio(steps["separate"], steps["base"]),
            "base_ms_per_step": 1000 * ratio(steps["base"], [1.0] * repeats)["median"],
        }


class _Clock:
    """A stopping criterion that stops nothing and keeps the mean time of a step of each call, without the prefill."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._start, self._count = 0.0, 0

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        now = time.perf_counter()
        if not self._count:
            self._start = now
        else:
            self.steps[-1] = (now - self._start) / self._count
        self._count += 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def started(self) -> list["_Clock"]:
        """Itself, for another call."""
        self.steps.append(0.0)
        self._count = 0
        return [self]


def _runs(
    base: Any, arms: list[Any], prompt: Any, new_tokens: int, compiled: bool, clocks: dict[str, "_Clock"]
) -> dict[str, Callable[[], Any]]:
    settings: dict[str, Any] = {
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    if compiled:
        from transformers import CompileConfig

        compile_config = CompileConfig()
        compile_config._compile_all_devices = True
        settings |= {"cache_implementation": "static", "compile_config": compile_config}
    genarm_hf.install()
    guided = settings | {"reward_models": arms, "alpha": 1.0}
    calls: dict[str, dict[str, Any]] = {
        "base": settings,
        "one pass": guided | {"share_backbone": True},
        "separate": guided | {"share_backbone": False},
    }

    def call(name: str) -> Callable[[], Any]:
        return lambda: base.generate(prompt, stopping_criteria=clocks[name].started(), **calls[name])

    return {name: call(name) for name in calls}
