"""What the tests of the reward-model class share: adapters on tiny models, a tokenizer of words, repositories."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import save_and_load
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.conftest import BOS, EOS, PAD, VOCAB

PEFT_WARNINGS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""Raised by PEFT 0.21 about transformers 5.23, not by anything of ours."""

LOADS_ADAPTERS = pytest.mark.skipif(
    not hasattr(save_and_load, "_maybe_shard_state_dict_for_tp"),
    reason="transformers itself cannot load adapters with a PEFT as old as this",
)

WORDS = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<unk>": 3} | {f"w{index}": index for index in range(4, VOCAB)}


def word_tokenizer(bos: bool = True, eos: bool = False, words: dict[str, int] | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of the words w4, w5, ... that puts BOS in front and, as T5's does, EOS behind, where asked to."""
    inner = Tokenizer(models.WordLevel(words or WORDS, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = " ".join(["<s>"] * bos + ["$A"] + ["</s>"] * eos)
    inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def lora(base: Any, rank: int = 4, seed: int = 1, name: str = "default", **changes: Any) -> Any:
    """A PEFT model of `base` with random, non-zero LoRA weights."""
    from peft import LoraConfig, get_peft_model

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    fields = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"} | changes
    model = get_peft_model(base, LoraConfig(r=rank, **fields), adapter_name=name).eval()
    torch.set_rng_state(state)
    return model


def state_of(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all tensors of a model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Bit for bit, dtypes included."""
    found = model.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def as_hub_cache(cache: Path, repositories: dict[str, Path]) -> None:
    """Lay directories out as the hub's cache keeps downloaded repositories."""
    for index, (name, source) in enumerate(repositories.items()):
        commit = f"{index:040x}"
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        (folder / "snapshots").mkdir()
        (folder / "snapshots" / commit).symlink_to(source, target_is_directory=True)


def python(code: str, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
    """Run code in a process of its own, away from this repository unless `PYTHONPATH` says otherwise."""
    # the same warning filter as the tests': whatever we raise is an error there too
    command = [
        sys.executable,
        "-P",
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-W",
        "ignore::FutureWarning",
        "-c",
        code,
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    return subprocess.Popen(command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
