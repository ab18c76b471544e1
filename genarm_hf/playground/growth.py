"""A wider model that starts where a smaller one ended, so that hardly any training is left to do."""

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_NOISE = 0.5  # of the weights' own spread: what sets the two copies apart


@torch.no_grad()
def widen(model: "LlamaForCausalLM", seed: int = 0) -> "LlamaForCausalLM":
    """A Llama of twice the width and about four times the parameters that computes the same function.

    Net2WiderNet (arXiv 1511.05641): every feature is there twice, and a matrix `W` on doubled inputs is
    `[W / 2 + N, W / 2 - N]` with any `N`. Random `N`, another for each copy of the outputs, gives the copies different
    gradients, so that training makes different features of them.

    Args:
        model: a Llama with tied embeddings and heads of a size of their own (`head_dim`); stays as it is.
        seed: of `N`.
    """
    from transformers import LlamaForCausalLM

    config = copy.deepcopy(model.config)
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        setattr(config, name, 2 * getattr(config, name))
    wide = LlamaForCausalLM(config)
    wide.generation_config = copy.deepcopy(model.generation_config)
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(wide.named_parameters())
    for name, weight in model.named_parameters():
        parameters[name].copy_(_widened(name, weight, generator))
    return wide.eval()


def _widened(name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    if "embed_tokens" in name:
        return torch.cat([weight, weight], 1)
    if weight.ndim == 1:
        # the tied head adds both copies up
        return torch.cat([weight, weight]) / (2 if name == "model.norm.weight" else 1)
    twice = torch.cat([weight, weight])
    noise = torch.randn(twice.shape, generator=generator) * weight.std() * _NOISE
    return torch.cat([twice / 2 + noise, twice / 2 - noise], 1)
