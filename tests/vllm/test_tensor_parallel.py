"""Two processes that hold half of every model each."""

import os

import pytest

from .conftest import random_prompts
from .engine_apart import generate_apart

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_tokens_are_those_of_one_process(zoo):
    """Of heads that divide among them, and of a single head that both have."""
    arms = ["deep", "qwen2"]
    prompts, alphas = random_prompts((3, 40, 17)), [[0.6, -0.4], 0, 0.5]
    bound = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    found = generate_apart(zoo.compose("base", arms), prompts, alphas, bound, tensor_parallel_size=2)
    assert found == [
        zoo.expected("base", arms, prompt, alpha, 16) for prompt, alpha in zip(prompts, alphas, strict=True)
    ]
