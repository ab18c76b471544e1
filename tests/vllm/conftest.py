"""Small models with head sizes that vLLM has kernels for, engines in this process, and transformers as the reference.

Engines share the process with the tests: that starts one in seconds, and lets tests look inside. That plugins reach
vLLM's other processes is what `test_server.py` shows.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

import pytest
import torch

from genarm_hf.integrations.vllm.composition import compose, open_part, write

from ..cli.conftest import build_tokenizer
from ..conftest import VOCAB, tiny

WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads of 32."""

_SCALED: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM and what it imports warn of many things; ours are errors in the other suites."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


class Zoo:
    """Models on disk and in transformers, made when first named."""

    makers: dict[str, tuple[str, int, dict[str, Any]]] = {
        "base": ("llama", 0, WIDE),
        "same": ("llama", 1, WIDE),
        "deep": ("llama", 2, WIDE | {"num_hidden_layers": 3, "num_key_value_heads": 2} | _SCALED),
        "large_heads": ("llama", 3, WIDE | {"hidden_size": 128, "num_hidden_layers": 1}),
        "qwen2": ("qwen2", 4, WIDE | {"tie_word_embeddings": True}),
        "qwen3": ("qwen3", 5, WIDE | {"head_dim": 32}),
        "window": ("mistral", 6, WIDE),
        "gpt2": ("gpt2", 7, {"n_embd": 64, "n_head": 2, "n_positions": 128}),
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        """The model in transformers."""
        if name not in self.models:
            kind, seed, changes = self.makers[name]
            self.models[name] = tiny(kind, seed, **changes)
            self.models[name].save_pretrained(self.folder / name)
            build_tokenizer().save_pretrained(self.folder / name)
        return self.models[name]

    def path(self, name: str) -> str:
        """Where it is saved."""
        self.model(name)
        return str(self.folder / name)

    def compose(self, base: str, arms: Sequence[str], alphas: Sequence[float] = (1.0,)) -> Path:
        """A composition on disk, new each time."""
        folder = self.folder / f"composed-{len(list(self.folder.glob('composed-*')))}"
        parts = [open_part(self.path(name)) for name in (base, *arms)]
        write(compose(parts[0], parts[1:], alphas), folder)
        return folder

    def expected(self, base: str, arms: Sequence[str], prompt: list[int], alpha: Any, tokens: int) -> list[int]:
        """What transformers generates, greedily, one prompt at a time."""
        ids = self.model(base).generate(
            torch.tensor([prompt]),
            reward_models=[self.model(name) for name in arms],
            alpha=alpha,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=-1,
        )
        return ids[0, len(prompt) :].tolist()


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def start(folder: Any, **changes: Any) -> Any:
    """An engine in this process, in float32, with room for a few thousand tokens."""
    from vllm import LLM

    options = {"dtype": "float32", "enforce_eager": True, "num_gpu_blocks_override": 128, "max_num_seqs": 16}
    _engines.append(LLM(str(folder), **options | changes))
    return _engines[-1]


# an engine that is collected takes the process groups of the others with it
_engines: list[Any] = []


def params(alpha: Any = None, tokens: int = 16, **changes: Any) -> Any:
    """Greedy, without a stop; `alpha=None` leaves it to the composition."""
    from vllm import SamplingParams

    extra = {} if alpha is None else {"extra_args": {"alpha": alpha}}
    return SamplingParams(**{"temperature": 0, "max_tokens": tokens, "ignore_eos": True} | extra | changes)


def generate(engine: Any, prompts: Sequence[list[int]], sampling: Any) -> list[list[int]]:
    """New tokens of each prompt."""
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def random_prompts(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Prompts without special ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]
