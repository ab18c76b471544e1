"""LoRA reward models on the base's own weights: one pass against separate ones, PEFT's, and the base alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import genarm_hf

from ..adapters import share_weights
from .calls import StepClock, greedy, lora_config, lora_reward_model
from .shapes import SHAPES, parameters
from .timing import Times, alternate, ratio

# shape, batch size, number of reward models
CASES: tuple[tuple[str, int, int], ...] = (("98M", 1, 1), ("98M", 1, 2), ("98M", 8, 1))
ALPHA = 1.0
PROMPTS = (64, 512)

_WARMUP = 2  # rounds that do not count
_PEFT = "PEFT adapter_names"
_ROWS = "rows of all streams"  # the base alone on as many rows: what one pass must cost on this machine


def bench_shared(
    cases: Sequence[tuple[str, int, int]] = CASES,
    new_tokens: int = 32,
    prompt_length: int = 64,
    prompts: Sequence[int] = PROMPTS,
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
        prompts: lengths of prompts that are timed alone, at batch 1.
        compiled: static cache and compiled forwards; PEFT's mixed batch, which has none, is then left out.
        repeats: rounds that count.
        dtype: of base and adapters.
        device: where they are.
        progress: called after each run.

    Yields:
        a row per case, with times relative to the base alone: `step` behind the prompt and `call` as a whole, of one
        pass, separate passes, PEFT's mixed batch, the base on as many rows and the base without this package; `prompt`
        by length, of one pass and of separate passes, to the first token.
    """
    for shape, batch, count in cases:
        base = SHAPES[shape].build(0, dtype, device)
        arms = [lora_reward_model(base, seed + 1) for seed in range(count)]
        alone = prompts if batch == 1 else []  # at larger batches they are arithmetic alone, for minutes
        ids = torch.randint(3, SHAPES[shape].vocab, (batch, max([prompt_length, *alone])), device=device)
        runs, clocks = _runs(base, arms, ids[:, :prompt_length], new_tokens, compiled)
        calls = alternate(runs, repeats, _WARMUP, progress)
        steps = {name: clock.steps[_WARMUP:] for name, clock in clocks.items()}
        yield {
            "shape": shape,
            "parameters": parameters(base),
            "batch": batch,
            "reward_models": count,
            "dtype": str(dtype).removeprefix("torch."),
            "cache": "static, compiled" if compiled else "dynamic, eager",
            "base_ms_per_step": 1000 * ratio(steps["base"], [1.0] * repeats)["median"],
            "step_of_base": _of_base(steps),
            "call_of_base": _of_base(calls),
            "prompt_of_base": {
                str(length): _prompt(base, arms, ids[:, :length], compiled, repeats, progress) for length in alone
            },
            "asked": _asked(device, compiled, batch, count),
        }


def _of_base(times: Times) -> dict[str, dict[str, float]]:
    return {name: ratio(seconds, times["base"]) for name, seconds in times.items() if name != "base"}


def _asked(device: str, compiled: bool, batch: int, count: int) -> float | None:
    """Most that a step with reward models may take of the base's, where a number has been set."""
    if device != "cpu":
        return {(1, 1): 1.12, (8, 1): 1.20, (1, 3): 1.25, (8, 3): 1.25}.get((batch, count))
    known = {(1, 1): 1.20, (1, 2): 1.40} if compiled else {(1, 1): 1.40}
    return known.get((batch, count))


def _runs(
    base: Any, arms: list[Any], prompt: Any, new_tokens: int, compiled: bool
) -> tuple[dict[str, Callable[[], Any]], dict[str, StepClock]]:
    settings = greedy(prompt, new_tokens, compiled)
    genarm_hf.install()
    clocks: dict[str, StepClock] = {}
    runs: dict[str, Callable[[], Any]] = {}

    def add(name: str, generate: Callable[..., Any], **changes: Any) -> None:
        clock = clocks[name] = StepClock()
        runs[name] = lambda: generate(**settings | {"inputs": prompt} | changes, stopping_criteria=clock.started())

    add("base", base.generate)
    add("one pass", base.generate, reward_models=arms, alpha=ALPHA, share_backbone=True)
    add("separate", base.generate, reward_models=arms, alpha=ALPHA, share_backbone=False)
    if not compiled:
        add(_PEFT, mixed_batch(base, arms), **mixed_rows(prompt, len(arms)))
    rows = prompt.repeat(len(arms) + 1, 1)
    add(_ROWS, base.generate, inputs=rows, attention_mask=torch.ones_like(rows))
    add("without genarm_hf", _uninstalled(base))
    return runs, clocks


def _uninstalled(base: Any) -> Callable[..., Any]:
    def generate(**settings: Any) -> Any:
        genarm_hf.uninstall()
        try:
            return base.generate(**settings)
        finally:
            genarm_hf.install()

    return generate


def mixed_batch(base: Any, arms: Sequence[Any]) -> Callable[..., Any]:
    """`generate()` of one PEFT model with all adapters of `arms`, over the base's own tensors."""
    model = share_weights(base)
    from peft import get_peft_model

    for index, arm in enumerate(arms):
        adapter = (f"arm{index}", lora_config(arm.peft_config["default"].r))
        if index:
            model.add_adapter(*adapter)
        else:
            model = get_peft_model(model, adapter[1], adapter[0])
    own = dict(model.named_parameters())
    for index, arm in enumerate(arms):
        for name, parameter in arm.named_parameters():
            if "lora_" in name:  # PEFT makes adapters float32 by itself
                own[name.replace(".default.", f".arm{index}.")].data = parameter.detach().clone()
    return model.eval().generate


def mixed_rows(prompt: Any, count: int) -> dict[str, Any]:
    """Arguments of a mixed batch: rows of the base, then of each adapter, which a processor combines."""
    from transformers import LogitsProcessor

    class Combine(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            base_scores, *rewards = scores.chunk(count + 1)
            guided = base_scores + ALPHA * sum(each.log_softmax(-1) for each in rewards)
            return guided.repeat(count + 1, 1)

    names = ["__base__", *(f"arm{index}" for index in range(count))]
    rows = prompt.repeat(count + 1, 1)
    return {
        "inputs": rows,
        "attention_mask": torch.ones_like(rows),
        "adapter_names": [name for name in names for _ in prompt],
        "logits_processor": [Combine()],
    }


def _prompt(
    base: Any, arms: list[Any], prompt: Any, compiled: bool, repeats: int, progress: Callable[[], Any] | None
) -> dict[str, dict[str, float]]:
    """Time to the first token relative to the base's."""
    settings = greedy(prompt, 1, compiled)

    def call(**guidance: Any) -> Callable[[], Any]:
        return lambda: base.generate(prompt, **settings, **guidance)

    runs = {
        "base": call(),
        "one pass": call(reward_models=arms, alpha=ALPHA, share_backbone=True),
        "separate": call(reward_models=arms, alpha=ALPHA, share_backbone=False),
    }
    return _of_base(alternate(runs, repeats, _WARMUP, progress))
