"""A wider copy: the same function, other gradients."""

import torch

from genarm_hf.playground import load_base, pretrain
from genarm_hf.playground.growth import widen

from ..conftest import prompts, tiny

TINY = {"tie_word_embeddings": True, "head_dim": 8}


def test_a_wider_copy_computes_the_same():
    model = tiny("llama", **TINY)
    wide = widen(model)
    assert wide.config.hidden_size == 64 and wide.config.num_key_value_heads == 4
    assert not wide.training and model.config.hidden_size == 32
    inputs = prompts(padded=True)
    torch.testing.assert_close(wide(**inputs).logits, model(**inputs).logits, atol=1e-3, rtol=1e-4)


def test_the_copies_learn_different_things():
    wide = widen(tiny("llama", **TINY))
    ids = prompts()["input_ids"]
    wide(input_ids=ids, labels=ids).loss.backward()
    # of the last layer's outputs alone, copies are alike until the embeddings that read them have moved apart
    for name in ("embed_tokens", "layers.0.mlp.gate_proj", "layers.0.self_attn.o_proj", "layers.1.self_attn.q_proj"):
        first, second = wide.get_parameter(f"model.{name}.weight").grad.chunk(2, dim=1 if "embed" in name else 0)
        assert (first - second).norm() > 0.1 * first.norm(), name


def test_the_strong_size_is_the_packaged_base_grown():
    wide, size = widen(load_base()), pretrain.SIZES["strong"]
    assert wide.config.hidden_size == size.hidden_size and wide.config.num_hidden_layers == size.layers
    assert 6e6 <= wide.num_parameters() <= 12e6
    assert wide.generation_config.max_new_tokens == 96
