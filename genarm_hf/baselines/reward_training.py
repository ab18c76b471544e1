"""Training what test-time baselines are guided by: trajectory rewards from preferences, prefix values from rollouts.

Both are a few lines on the `Trainer` of transformers. Preferences are tokenised exactly as for `ARMTrainer`, so that
reward models of both kinds learn from the same ids.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from ..adapters import unwrap
from ..training.data import PairTokenizer, check_ids, tokenize_pairs
from .trajectory_rewards import TrajectoryReward

Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]
_HEADS = ("score", "classifier")


def train_trajectory_reward(
    model: Any,
    train_dataset: Any,
    tokenizer: Any,
    args: TrainingArguments,
    *,
    eval_dataset: Any = None,
    peft_config: Any = None,
    max_length: int | None = None,
    callbacks: list[Any] | None = None,
) -> TrajectoryReward:
    """Train a sequence classifier on preferences: `-log sigmoid(r(x, chosen) - r(x, rejected))`, Bradley-Terry.

    The loss of every trajectory-level reward model that the paper compares with (arXiv 2009.01325, equation 1).

    Args:
        model: a sequence classifier with one label, such as `from_causal_lm(model)`; trained in place.
        train_dataset: rows with `prompt`, `chosen` and `rejected`, as for `ARMTrainer`; of text, or tokenised.
        tokenizer: the model's. None will do for tokenised rows.
        args: of the `Trainer`.
        eval_dataset: like `train_dataset`; its loss is logged as `eval_loss` when `args.eval_strategy` says.
        peft_config: trains a LoRA instead of all weights. The head is always trained.
        max_length: most tokens of prompt and response; a longer prompt loses its start.
        callbacks: of the `Trainer`.

    Returns:
        the reward, in evaluation mode. Its `model` is a `PeftModel` if `peft_config` was given.

    Raises:
        TypeError: the model is no decoder with a classification head, or a row has the wrong type.
        ValueError: it has several labels, a row is bad, or a token is unknown to the model.
    """
    TrajectoryReward(model)
    encode = PairTokenizer(tokenizer, max_length=max_length)
    datasets = [None if data is None else _pairs(data, encode, model) for data in (train_dataset, eval_dataset)]
    pad = unwrap(model).config.get_text_config().pad_token_id
    trained = _train(model, args, datasets, PairCollator(pad), preference_loss, peft_config, "SEQ_CLS", callbacks)
    return TrajectoryReward(trained, tokenizer)


def train_prefix_value(
    model: Any,
    train_dataset: Sequence[dict[str, Any]],
    args: TrainingArguments,
    *,
    eval_dataset: Sequence[dict[str, Any]] | None = None,
    peft_config: Any = None,
    tokenizer: Any = None,
    callbacks: list[Any] | None = None,
) -> TrajectoryReward:
    """Train a token classifier to say at each token of a response what its reward will be (CD-FUDGE).

    The loss is `(V(x, y_1..t) - r(x, y))^2 / 2` (arXiv 2310.17022, section 3.1), here averaged over all response tokens
    of a batch, so that the learning rate does not depend on lengths.

    Args:
        model: a token classifier with one label, such as `from_causal_lm(model, per_token=True)`; trained in place.
        train_dataset: rows with `prompt_ids`, `response_ids` and `reward`, as `sample_value_rows` makes them.
        args: of the `Trainer`.
        eval_dataset: like `train_dataset`; its loss is logged as `eval_loss` when `args.eval_strategy` says.
        peft_config: trains a LoRA instead of all weights. The head is always trained.
        tokenizer: for `TrajectoryReward.score` alone.
        callbacks: of the `Trainer`.

    Returns:
        the value, in evaluation mode: called with unfinished texts, it gives their values.

    Raises:
        TypeError: the model is no decoder with a classification head.
        ValueError: it has several labels, or there are no rows, or one without a response.
    """
    TrajectoryReward(model)
    for name, rows in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
        if rows is not None and (not len(rows) or any(not len(row["response_ids"]) for row in rows)):
            raise ValueError(f"`{name}` must have rows, and each of them `response_ids`.")
    pad = unwrap(model).config.get_text_config().pad_token_id
    datasets = [train_dataset, eval_dataset]
    trained = _train(model, args, datasets, RolloutCollator(pad), value_loss, peft_config, "TOKEN_CLS", callbacks)
    return TrajectoryReward(trained, tokenizer)


# ---------------------------------------------------------------------- losses


def preference_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Bradley-Terry loss of a batch whose first half of rows are chosen texts, and the second the rejected ones."""
    chosen, rejected = model(**inputs, use_cache=False).logits[:, 0].float().chunk(2)
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def value_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Half the squared error of values at response tokens, averaged over them."""
    rewards, response = inputs.pop("rewards"), inputs.pop("response_mask")
    values = model(**inputs, use_cache=False).logits[..., 0].float()
    errors = (values - rewards[:, None]).square() * response
    return errors.sum() / (2 * response.sum())


# ---------------------------------------------------------------------- batches


class PairCollator:
    """Rows of `chosen` and `rejected` ids to one batch: all chosen texts, then all rejected ones, padded at the end."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, `(2 * rows, length)`."""
        return _padded([row[name] for name in ("chosen", "rejected") for row in rows], self._pad)


class RolloutCollator:
    """Rollouts to one batch, with rewards `(rows,)` and a mask `(rows, length)` of the response's tokens."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `response_mask` and `rewards`."""
        batch = _padded([[*row["prompt_ids"], *row["response_ids"]] for row in rows], self._pad)
        prompts = torch.tensor([[len(row["prompt_ids"])] for row in rows])
        behind = torch.arange(batch["input_ids"].shape[1]) >= prompts
        rewards = torch.tensor([float(row["reward"]) for row in rows])
        return batch | {"response_mask": batch["attention_mask"] * behind, "rewards": rewards}


def _padded(texts: list[list[int]], pad: int) -> dict[str, Tensor]:
    width = max(len(ids) for ids in texts)
    ids = torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in texts])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts])
    return {"input_ids": ids, "attention_mask": mask}


# ---------------------------------------------------------------------- the trainer


class LossTrainer(Trainer):
    """A `Trainer` whose batches hold what one loss reads."""

    def __init__(self, *args: Any, loss: Loss, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loss = loss
        # the loss is the mean of its batch, so accumulation has to average; and evaluation computes it without labels
        self.model_accepts_loss_kwargs, self.can_return_loss = False, True

    def _set_signature_columns_if_needed(self) -> None:
        """The columns that a batch is made of are ours, not arguments of the model's forward."""
        self._signature_columns = ["chosen", "rejected", "prompt_ids", "response_ids", "reward"]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch."""
        loss = self._loss(model, dict(inputs))
        return (loss, {}) if return_outputs else loss


def _train(
    model: Any,
    args: TrainingArguments,
    datasets: list[Any],
    collator: Any,
    loss: Loss,
    peft_config: Any,
    task: str,
    callbacks: list[Any] | None,
) -> Any:
    if peft_config is not None:
        from peft import get_peft_model

        peft_config = copy.deepcopy(peft_config)
        peft_config.task_type = task  # which makes PEFT train the head too
        if task == "TOKEN_CLS" and peft_config.target_modules == "all-linear":
            # PEFT leaves the head of sequence classifiers alone, and would put an adapter on that of token classifiers
            peft_config.exclude_modules = [name for name, _ in model.named_children() if name in _HEADS]
        model = get_peft_model(model, peft_config)
    train, evaluation = datasets
    trainer = LossTrainer(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=evaluation,
        callbacks=callbacks,
        loss=loss,
    )
    trainer.train()
    return model.eval()


def _pairs(dataset: Any, encode: PairTokenizer, model: Any) -> list[dict[str, list[int]]]:
    """Rows with the ids of both texts, prompts included."""
    rows = tokenize_pairs(dataset, encode)
    check_ids(rows, encode.name, unwrap(model).get_input_embeddings().weight.shape[0])
    return [
        {name: [*row["prompt_ids"], *row[f"{name}_ids"]] for name in ("chosen", "rejected")}
        for row in (rows[place] for place in range(len(rows)))
    ]
