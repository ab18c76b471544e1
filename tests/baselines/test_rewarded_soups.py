"""Rewarded Soups: what is averaged is the change of the weights, by hand."""

import copy
from typing import Any

import pytest
import torch

from genarm_hf.baselines.rewarded_soups import rewarded_soup

from ..conftest import prompts, tiny

peft = pytest.importorskip("peft")

WEIGHTS = [0.3, 0.9, -0.2]
CHANGES: list[dict[str, Any]] = [
    {"r": 2, "lora_alpha": 3},
    {"r": 3, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj"]},
    {"r": 4, "target_modules": ["down_proj", "embed_tokens"]},
]


def adapted(seed: int, **changes: Any) -> Any:
    fields = {"target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    torch.manual_seed(seed)
    return peft.get_peft_model(tiny("llama"), peft.LoraConfig(**fields | changes)).eval()


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_products_are_averaged(order: list[int]) -> None:
    models = [adapted(seed, **CHANGES[seed]) for seed in order]
    soup = rewarded_soup(models, WEIGHTS)
    by_hand, plain = tiny("llama"), tiny("llama")
    for name, parameter in by_hand.named_parameters():
        deltas = [dict(copy.deepcopy(m).merge_and_unload().named_parameters())[name] - parameter for m in models]
        parameter.data += sum(w * delta.data for w, delta in zip(WEIGHTS, deltas, strict=True))
    merged = copy.deepcopy(soup).merge_and_unload()
    for (name, found), expected in zip(merged.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected, msg=name, atol=1e-5, rtol=1e-5)
    ids = prompts(2)["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(soup(ids).logits, by_hand(ids).logits, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(soup(ids).logits, plain(ids).logits, atol=1e-2)
    assert soup.generate(**prompts(2), max_new_tokens=3, do_sample=False).shape == (2, 9)


def test_matrices_averaged_by_themselves_are_something_else() -> None:
    """The mistake of released code: the product of averages has cross terms."""
    models = [adapted(0), adapted(1)]
    soup = rewarded_soup(models, [0.5, 0.5])
    wrong = copy.deepcopy(models[0])
    for parameter, other in zip(wrong.parameters(), models[1].parameters(), strict=True):
        parameter.data = (parameter.data + other.data) / 2
    ids = prompts(2)["input_ids"]
    with torch.no_grad():
        assert not torch.allclose(soup(ids).logits, wrong(ids).logits, atol=1e-2)


def test_the_ingredients_stay_as_they_are() -> None:
    models = [adapted(0), adapted(1)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    soup = rewarded_soup(models, [0.5, 0.5])
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert list(soup.peft_config) == ["default"] and not soup.training


def test_full_weights() -> None:
    models = [tiny("gpt2", seed=seed) for seed in range(3)]
    soup = rewarded_soup(models, WEIGHTS)
    rows = zip(soup.parameters(), *(model.parameters() for model in models), strict=True)
    for found, *parts in rows:
        torch.testing.assert_close(found, sum(w * part for w, part in zip(WEIGHTS, parts, strict=True)))
    assert soup.lm_head.weight is soup.transformer.wte.weight


def test_what_it_refuses() -> None:
    models = [adapted(0), adapted(1)]
    with pytest.raises(ValueError, match="one for each of the 2 models, got 1"):
        rewarded_soup(models, [1.0])
    with pytest.raises(ValueError, match="must add up to 1"):
        rewarded_soup(models, [1.0, 1.0])
    with pytest.raises(ValueError, match="all have LoRA adapters, or none"):
        rewarded_soup([models[0], tiny("llama")], [0.5, 0.5])
    with pytest.raises(ValueError, match="same parameters"):
        rewarded_soup([tiny("llama"), tiny("llama", num_hidden_layers=1)], [0.5, 0.5])
    for changes in ({"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 5}}):
        with pytest.raises(ValueError, match=f"one has {next(iter(changes))}="):
            rewarded_soup([models[0], adapted(1, **changes)], [0.5, 0.5])
