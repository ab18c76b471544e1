"""Tiny models on disk, with a tokenizer: what `genarm-hf generate` is pointed at."""

from pathlib import Path
from typing import Any

import pytest
import torch

from genarm_hf import AutoregressiveRewardModel, GenARMConfig

from ..conftest import VOCAB, tiny

WORDS = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCAB))]
PROMPT = "w5 w6 w7"


def build_tokenizer(words: list[str] = WORDS) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **special)


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    tiny("llama", seed=0).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def arm_dir(tmp_path_factory) -> Path:
    """A reward model with full weights of another architecture."""
    directory = tmp_path_factory.mktemp("arm")
    backbone = tiny("gpt2", seed=1)
    config = GenARMConfig(text_config=backbone.config, objective="helpful", alpha=0.25)
    AutoregressiveRewardModel(config, backbone).save_pretrained(directory, tokenizer=build_tokenizer())
    return directory


@pytest.fixture(scope="session")
def lora_dir(tmp_path_factory, base_dir) -> Path:
    """A reward model that is a LoRA adapter of the base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    backbone = get_peft_model(AutoModelForCausalLM.from_pretrained(base_dir), adapter)
    AutoregressiveRewardModel.from_backbone(backbone, objective="brief").save_pretrained(directory)
    return directory
