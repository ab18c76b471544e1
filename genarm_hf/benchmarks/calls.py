"""What suites have in common: greedy calls of `generate()`, reward models of random LoRA weights, a clock of steps."""

import time
from typing import Any

import torch

from ..adapters import share_weights


def greedy(prompt: Any, new_tokens: int, compiled: bool = False) -> dict[str, Any]:
    """Arguments of a greedy `generate()` that never ends before its time.

    Args:
        prompt: ids `(batch, length)`.
        new_tokens: tokens to generate.
        compiled: static cache and compiled forwards, on a CPU too.
    """
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
    return settings


def lora_reward_model(base: Any, seed: int, rank: int = 16) -> Any:
    """A reward model of random LoRA weights on all linear layers, over the base's own tensors."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(share_weights(base), lora_config(rank), autocast_adapter_dtype=False).eval()


def lora_config(rank: int = 16) -> Any:
    """LoRA on all linear layers, with random weights that do something."""
    from peft import LoraConfig

    return LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False)


class StepClock:
    """A stopping criterion that stops nothing and keeps the mean time of a step of each call, without the prefill."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._start, self._count = 0.0, 0

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Never stop."""
        now = time.perf_counter()
        if not self._count:
            self._start = now
        else:
            self.steps[-1] = (now - self._start) / self._count
        self._count += 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def started(self) -> list["StepClock"]:
        """Itself, for another call."""
        self.steps.append(0.0)
        self._count = 0
        return [self]
