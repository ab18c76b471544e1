"""The embedded world on which alignment can be measured exactly, on a laptop CPU.

Requests and replies come from a small grammar (`world`), exact oracles score the replies (`oracles`), and a base model
of 1.6M parameters that has learned the generator is part of the package (`pretrain` rebuilds it).

Example:
    >>> from genarm_hf import playground
    >>> prompt = playground.prompts(1, seed=0)[0]
    >>> playground.score("brief", prompt, "Good luck with it.")
    9.0
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .oracles import OBJECTIVES, oracle, score, scores
from .preferences import preference_pairs, sample_replies
from .world import PROMPT_TEMPLATE, log_prob, sample_reply
from .world import sample_prompts as prompts

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

__all__ = [
    "BASE_DIRECTORY",
    "OBJECTIVES",
    "PROMPT_TEMPLATE",
    "load_base",
    "load_tokenizer",
    "log_prob",
    "oracle",
    "preference_pairs",
    "prompts",
    "sample_replies",
    "sample_reply",
    "score",
    "scores",
]

BASE_DIRECTORY = Path(__file__).parent / "base"


def load_base(dtype: "torch.dtype | None" = None) -> "LlamaForCausalLM":
    """The pretrained base model, in eval mode; float32 unless another dtype is given (the file holds bfloat16)."""
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(BASE_DIRECTORY, dtype=dtype or torch.float32).eval()


def load_tokenizer() -> "PreTrainedTokenizerBase":
    """The tokenizer of the world: left padding, no special tokens added on encoding."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE_DIRECTORY)
