"""Multi-objective decoding (MOD, arXiv 2406.18853): tuned models mixed token by token, weights chosen at decoding."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..decoding.guided_model import guide
from ..modeling_implicit import ImplicitRewardModel


def mod(
    model: Any,
    tuned_models: Sequence[Any],
    weights: Sequence[float] | Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    **generate_kwargs: Any,
) -> Any:
    """Generate from models tuned for one objective each, as a model tuned for the weighted sum of them would.

    For models tuned under a reverse KL to one reference (DPO, PPO), all with one beta, the optimum for the rewards
    `sum_i w_i r_i` is `log pi = log pi_ref + sum_i w_i (log pi_i - log pi_ref) - log Z`. Where the weights add up to 1,
    as in the paper, this is `sum_i w_i log pi_i - log Z`: its closed form for the reverse KL, taken token by token. It
    runs as guidance of the reference by implicit rewards, with everything that guidance can do.

    The released code (srzer/MOD, `util_decode.py`) runs the reference beside the tuned models too, knows greedy and
    beam search alone, and adds unnormalised scores up along a beam; here beams add up the log-probabilities of the
    mixture, and sampling is from it.

    Args:
        model: the reference, which the others were tuned from. Where these are LoRA adapters on its weights
            (`AutoregressiveRewardModel.from_pretrained(adapter, base_model=model)`), all run in one pass.
        tuned_models: causal LMs, PEFT or reward models, one for each objective.
        weights: one for each of them, or `(batch, models)` for a trade-off of each row.
        input_ids: `(batch, length)`.
        attention_mask: `(batch, length)`, 1 = token.
        **generate_kwargs: as in `generate()`.

    Returns:
        what `generate()` returns. With `output_rewards=True`, `rewards` are the implicit ones.

    Raises:
        TypeError: a model is no causal LM.
        ValueError: there are not as many weights as models, or vocabularies disagree.
    """
    return mixture(model, tuned_models, weights).generate(
        input_ids=input_ids, attention_mask=attention_mask, **generate_kwargs
    )


def mixture(model: Any, tuned_models: Sequence[Any], weights: Sequence[float] | Tensor | Callable[[int], Any]) -> Any:
    """The mixture that [`mod`] generates from, as a guided model to be scored with.

    Args:
        model: as in [`mod`].
        tuned_models: likewise.
        weights: likewise.
    """
    return guide(model, [ImplicitRewardModel(tuned, model) for tuned in tuned_models], alpha=weights)
