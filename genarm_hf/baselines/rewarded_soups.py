"""Rewarded Soups (arXiv 2306.04488): one model with the averaged weights of models tuned for one reward each."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..adapters import active_adapter, has_adapters, share_weights, unwrap, without_adapters

_SOUP = "default"


def rewarded_soup(models: Sequence[Any], weights: Sequence[float]) -> Any:
    """Average models that were tuned from one model: `theta = sum_i w_i theta_i` (section 2.2 of the paper).

    Of LoRA models the *products* are averaged, `delta W = sum_i w_i scale_i B_i A_i`, which is the average of the
    weights. The released code averages all A and all B by themselves (alexrame/rewardedsoups,
    `llama/utils/inference_utils.py`; so do srzer/MOD and GenARM's repository), whose product has the cross terms
    `B_i A_j` and is not the model of the paper.

    Args:
        models: PEFT models with one LoRA adapter each on equal base weights, or fully tuned causal LMs; also
            reward models of either.
        weights: one for each model, 1 in sum.

    Returns:
        a `PeftModel` of rank `sum_i r_i` on the first model's own base tensors, or a causal LM of its own weights; in
        evaluation mode. The given models stay as they are.

    Raises:
        ValueError: weights that do not fit, models of different shapes, or adapters that are no sum of low-rank terms.

    Example:

    ```python
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> tiny = LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> one, other = LlamaForCausalLM(tiny), LlamaForCausalLM(tiny)
    >>> soup = rewarded_soup([one, other], [0.25, 0.75])
    >>> torch.allclose(soup.lm_head.weight, 0.25 * one.lm_head.weight + 0.75 * other.lm_head.weight)
    True

    ```
    """
    models = [getattr(model, "backbone", model) for model in models]
    if not models or len(models) != len(weights):
        raise ValueError(f"`weights` must be one for each of the {len(models)} models, got {len(weights)}.")
    if not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"`weights` must add up to 1, or the soup is no average; got {list(weights)}.")
    adapted = [has_adapters(unwrap(model)) for model in models]
    if all(adapted):
        return _average_adapters(models, weights)
    if any(adapted):
        raise ValueError("`models` must all have LoRA adapters, or none: merge adapters with `merge_and_unload()`.")
    return _average_weights(models, weights)


@torch.no_grad()
def _average_weights(models: Sequence[Any], weights: Sequence[float]) -> Any:
    soup = copy.deepcopy(models[0])
    rows = [dict(model.named_parameters()) for model in models]
    shapes = [{name: tensor.shape for name, tensor in row.items()} for row in rows]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("`models` must have the same parameters: a soup is of models tuned from one.")
    for name, parameter in soup.named_parameters():
        total = sum(weight * row[name].float() for weight, row in zip(weights, rows, strict=True))
        parameter.copy_(torch.as_tensor(total))
    return soup.eval()


def _average_adapters(models: Sequence[Any], weights: Sequence[float]) -> Any:
    """All adapters side by side in one model, where PEFT stacks their A and B: the product of these is the sum."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    adapters = [_lora_adapter(model) for model in models]
    soup: Any = share_weights(without_adapters(unwrap(models[0])))
    names = [f"ingredient_{index}" for index in range(len(models))]
    for name, model, (given, config) in zip(names, models, adapters, strict=True):
        config = copy.deepcopy(config)
        if name == names[0]:
            soup = get_peft_model(soup, config, adapter_name=name)
        else:
            soup.add_adapter(name, config)
        state = get_peft_model_state_dict(model, adapter_name=given, save_embedding_layers=False)
        set_peft_model_state_dict(soup, state, adapter_name=name)
    soup.add_weighted_adapter(names, list(weights), _SOUP, combination_type="cat")
    for module in soup.modules():
        if hasattr(module, "lora_A") and _SOUP in module.scaling:
            module.scaling[_SOUP] = 1.0  # scales are in the stacked A already; rank-stabilised LoRA would add another
    soup.set_adapter(_SOUP)
    for name in names:
        soup.delete_adapter(name)
    return soup.eval()


def _lora_adapter(model: Any) -> tuple[str, Any]:
    """Name and configuration of a model's LoRA adapter.

    Raises:
        ValueError: it is another kind of adapter, or does more than add `scale * B A` to weights.
    """
    name, config = active_adapter(model)  # type: ignore[misc]
    rules = {
        "peft_type": getattr(config.peft_type, "value", config.peft_type) == "LORA",
        "use_dora": not getattr(config, "use_dora", False),
        "bias": getattr(config, "bias", "none") == "none",
        "modules_to_save": not getattr(config, "modules_to_save", None),
        "rank_pattern": not getattr(config, "rank_pattern", None),
    }
    broken = next((rule for rule, holds in rules.items() if not holds), None)
    if broken is not None:
        raise ValueError(
            f"A soup is made of plain LoRA adapters, and one has {broken}={getattr(config, broken)!r}. Average merged "
            "models instead (`merge_and_unload()`)."
        )
    return name, config
