"""How well reward models agree with people on held-out pairs; likewise the implicit rewards of a tuned model (DPO)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..modeling_genarm import AutoregressiveRewardModel
from ..modeling_implicit import ImplicitRewardModel
from ..scoring import evaluating
from ..training.batches import PairCollator
from ..training.data import ID_COLUMNS, PairTokenizer, check_ids, tokenize_pairs
from ..training.metrics import PreferenceSummary, check_beta, preference_summary
from ..training.pair_forward import PairForward, choose_method

Array = NDArray[np.float64]

TOKENS_PER_BATCH = 4096
_PAIRS = 256  # that are laid out in rows together


@dataclass(frozen=True)
class PreferenceReport:
    """What [`evaluate_preferences`] finds.

    Attributes:
        summary: accuracy, calibration, margins and what length explains of them.
        rewards: `(pairs, 2)`, of chosen and rejected, in the order of the data, in nats.
        lengths: `(pairs, 2)`, their tokens.
        dropped: how many pairs were left out since a response alone is too long for the model.
    """

    summary: PreferenceSummary
    rewards: Array
    lengths: Array
    dropped: int

    def to_dict(self) -> dict[str, Any]:
        """The numbers, without those of single pairs, ready for json."""
        return {"pairs": len(self.rewards), "dropped": self.dropped} | self.summary.to_dict()


def evaluate_preferences(
    model: Any,
    dataset: Any,
    tokenizer: Any,
    *,
    reference: Any = None,
    beta: float | None = None,
    max_length: int | None = None,
    max_tokens_per_batch: int = TOKENS_PER_BATCH,
    length_normalize: bool = False,
    drop_overlong: bool = False,
    progress: Callable[[int], Any] = lambda pairs: None,
) -> PreferenceReport:
    """Compare the rewards of pairs with the preferences of people.

    Args:
        model: an [`AutoregressiveRewardModel`], or any causal LM or `PeftModel` of one, whose log-probabilities are
            then the rewards; or an [`ImplicitRewardModel`], which brings its reference along.
        dataset: rows with `prompt`, `chosen` and `rejected`, see [`ARMTrainer`]; of text, or tokenised.
        tokenizer: the model's. None will do for tokenised rows.
        reference: a causal LM of the same vocabulary. With it, rewards are `log pi - log pi_ref`, the implicit rewards
            of a model tuned by DPO (arXiv 2305.18290).
        beta: inverse temperature that preferences are predicted with. None: what the reward model was trained with; if
            it does not say, nothing is predicted.
        max_length: most tokens of prompt and response; a longer prompt loses its start. None: the model's positions.
        max_tokens_per_batch: most tokens of one forward, padding included; a longer pair has one to itself. Results do
            not depend on it.
        length_normalize: divide rewards by the lengths of responses, as a model was trained with `length_normalize`.
        drop_overlong: leave pairs out whose response leaves no room for a prompt; otherwise they are an error.
        progress: told of the number of pairs after each batch, once for `model` and once for `reference`.

    Raises:
        TypeError: a model is no causal LM, or a row has the wrong type.
        ValueError: a row is bad, there is none, a token is unknown to a model, or rewards are not finite.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=16, hidden_size=64, intermediate_size=8, num_hidden_layers=1)
        >>> pairs = [{"prompt_ids": [1, 5], "chosen_ids": [7, 2], "rejected_ids": [7, 2]}]
        >>> report = evaluate_preferences(LlamaForCausalLM(config), pairs, tokenizer=None)
        >>> report.summary.accuracy.value  # equal responses: a tie
        0.5
    """
    if max_length is not None and max_length < 2:
        raise ValueError(f"`max_length` must leave room for a prompt and a response token, got {max_length}.")
    check_beta(beta)
    if isinstance(model, ImplicitRewardModel):
        model, reference = model.tuned, model.reference
    models = [_reward_model(one) for one in ([model] if reference is None else [model, reference])]
    positions = [limit for one in models if (limit := _positions(one)) is not None]
    encode = PairTokenizer(
        tokenizer,
        max_length=max_length or min(positions, default=None),
        prompt_template=models[0].config.prompt_template,
        drop_overlong=drop_overlong,
        name="dataset",
    )
    rows = tokenize_pairs(dataset, encode)
    _check(models, rows, max_tokens_per_batch)
    logps = [_pair_logprobs(one, rows, max_tokens_per_batch, progress) for one in models]
    lengths = np.array([[len(row[ids]) for ids in ID_COLUMNS[1:]] for row in rows], dtype=np.float64)
    rewards = logps[0] if reference is None else logps[0] - logps[1]
    if length_normalize:
        rewards = rewards / lengths
    if beta is None:
        beta = models[0].config.beta
    summary = preference_summary(*rewards.T, *lengths.T, beta=beta)
    return PreferenceReport(summary, rewards, lengths, len(dataset) - len(rows))


def pair_logprobs(
    model: Any,
    rows: Any,
    max_tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Callable[[int], Any] = lambda pairs: None,
) -> Array:
    """Log-probability of both responses of every pair.

    Args:
        model: as in [`evaluate_preferences`].
        rows: tokenised pairs, with `prompt_ids`, `chosen_ids` and `rejected_ids`.
        max_tokens_per_batch: most tokens of one forward.
        progress: told of the number of pairs after each batch.

    Returns:
        `(pairs, 2)` of chosen and rejected in nats, in the order of the rows.

    Raises:
        ValueError: `max_tokens_per_batch` is not positive, or a row holds an id that the model does not have.
    """
    arm = _reward_model(model)
    _check([arm], rows, max_tokens_per_batch)
    return _pair_logprobs(arm, rows, max_tokens_per_batch, progress)


@torch.no_grad()
def _pair_logprobs(
    arm: AutoregressiveRewardModel, rows: Any, max_tokens_per_batch: int, progress: Callable[[int], Any]
) -> Array:
    result = np.zeros((len(rows), 2))
    method = choose_method(arm.backbone)
    read, collate = PairForward(arm.backbone, method), PairCollator(0, method.share_prompts, max_tokens_per_batch)
    # the longest first, where too little memory shows at once
    order = sorted(range(len(rows)), key=lambda place: -sum(len(rows[place][column]) for column in ID_COLUMNS))
    with evaluating(arm):
        for places in (order[start : start + _PAIRS] for start in range(0, len(order), _PAIRS)):
            batch = collate([rows[place] for place in places])
            found = [_read(read, arm, part, progress) for part in batch["parts"]]
            result[[places[place] for place in batch["order"]]] = np.concatenate(found)
    return result


def _read(read: PairForward, arm: AutoregressiveRewardModel, part: dict[str, Tensor], progress: Any) -> Array:
    device = arm._input_device
    logps = read(arm.backbone, {name: values.to(device) for name, values in part.items()})
    progress(len(logps))
    return logps.double().cpu().numpy()


def _reward_model(model: Any) -> AutoregressiveRewardModel:
    return model if isinstance(model, AutoregressiveRewardModel) else AutoregressiveRewardModel.from_backbone(model)


def _positions(arm: AutoregressiveRewardModel) -> int | None:
    return getattr(arm.causal_lm.config.get_text_config(decoder=True), "max_position_embeddings", None)


def _check(models: Sequence[AutoregressiveRewardModel], rows: Any, max_tokens_per_batch: int) -> None:
    if max_tokens_per_batch < 1:
        raise ValueError(f"`max_tokens_per_batch` must be at least 1, got {max_tokens_per_batch}.")
    embeddings: list[Any] = [arm.get_input_embeddings() for arm in models]
    check_ids(rows, "dataset", min(one.weight.shape[0] for one in embeddings))
