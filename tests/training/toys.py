"""A toy preference that a tiny model learns in a second: responses with token 7 are preferred to those with token 9."""

import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from genarm_hf.training import ARMTrainingArguments

from ..conftest import VOCAB

LIKED, DISLIKED = 7, 9
_OTHERS = [token for token in range(3, VOCAB) if token not in (LIKED, DISLIKED)]


def word_tokenizer(bos: bool = True, eos: bool = False) -> PreTrainedTokenizerFast:
    """Word `w5` is id 5; adds BOS, or EOS, to whole texts as asked."""
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCAB))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = [*(["<s>"] if bos else []), "$A", *(["</s>"] if eos else [])]
    inner.post_processor = processors.TemplateProcessing(
        single=" ".join(template), special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **special)


def words(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


def toy_pairs(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs whose responses differ in one token, which is the liked or the disliked one."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        response = rng.choices(_OTHERS, k=rng.randint(2, 4))
        place = rng.randrange(len(response))
        chosen, rejected = ([*response[:place], token, *response[place + 1 :]] for token in (LIKED, DISLIKED))
        prompt = rng.choices(_OTHERS, k=rng.randint(2, 6))
        rows.append({"prompt": words(prompt), "chosen": words(chosen), "rejected": words(rejected)})
    return rows


def arguments(directory: Path, **options: Any) -> ARMTrainingArguments:
    """Quiet options for tests on the CPU."""
    quiet = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    return ARMTrainingArguments(output_dir=str(directory), **quiet | {"per_device_train_batch_size": 8} | options)
