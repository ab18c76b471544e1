"""Tiny random models, made in milliseconds, and the places where optional real material may be."""

import os
import random
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis.core
import pytest
import torch
from transformers import PreTrainedModel

import genarm_hf  # noqa: F401 - generate() takes reward models from here on

torch.set_num_threads(1)
# one seed for all hypothesis tests and worker processes of a run, printed in its header; another one each time, but for
# continuous integration, where a run must say something about the change and not about luck
SEED = int(os.environ.setdefault("HYPOTHESIS_SEED", "0" if os.environ.get("CI") else str(random.randrange(2**32))))
hypothesis.core.global_force_seed = SEED

VOCAB = 48
PAD, BOS, EOS = 0, 1, 2
_SMALL: dict[str, Any] = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
# large initial weights: peaked, varied distributions, so that equal tokens mean equal computation
_ROTARY: dict[str, Any] = _SMALL | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
}


def pytest_report_header() -> str:
    return f"hypothesis seed: {SEED} (HYPOTHESIS_SEED={SEED} repeats it)"


def _config(kind: str, **changes: Any) -> Any:
    import transformers as hf

    makers = {
        "llama": lambda: hf.LlamaConfig(**_ROTARY | changes),
        "qwen2": lambda: hf.Qwen2Config(**_ROTARY | changes),
        "qwen3": lambda: hf.Qwen3Config(**_ROTARY | changes),
        "mistral": lambda: hf.MistralConfig(**_ROTARY | {"sliding_window": 6} | changes),
        "gemma": lambda: hf.Gemma2Config(
            **_ROTARY
            | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "final_logit_softcapping": 20.0}
            | changes
        ),
        "gpt2": lambda: hf.GPT2Config(
            **_SMALL | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.4} | changes
        ),
        "t5": lambda: hf.T5Config(
            **_SMALL
            | {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
            | {"initializer_factor": 4.0}
            | changes
        ),
    }
    return makers[kind]()


def tiny(kind: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random causal LM (or T5) of the given architecture with a vocabulary of `VOCAB` ids."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = _config(kind, **changes)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = auto.from_config(config).eval()
    torch.set_rng_state(state)
    return model


def prompts(batch: int = 2, length: int = 6, seed: int = 0, padded: bool = False) -> dict[str, torch.Tensor]:
    """Random prompts without special ids; with `padded`, left-padded by different amounts (the last row by none)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch - 1 if padded else 0):
        mask[row, : 1 + int(torch.randint(0, length - 1, (1,), generator=generator))] = 0
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


@pytest.fixture
def real_data() -> Path:
    """Real preference data and a real tiny model, outside the repository; tests skip without them."""
    folder = Path(os.environ.get("GENARM_HF_TEST_DATA", Path(__file__).parents[2] / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip("no folder of real test data (set GENARM_HF_TEST_DATA)")
    return folder
