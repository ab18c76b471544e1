"""`ARMTrainingArguments`: the options of training a reward model, on top of those of `TrainingArguments`."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments

from ..configuration_genarm import check_values
from .losses import check_loss_type


@dataclass
class ARMTrainingArguments(TrainingArguments):
    """Options of [`ARMTrainer`]: those of `TrainingArguments` and the following ones.

    Defaults are the paper's for LoRA on HH-RLHF (arXiv 2410.08193): beta 0.05, learning rate 5e-4, one epoch. For full
    fine-tuning the paper uses a learning rate of 5e-7.

    Args:
        beta (`float`, defaults to 0.05): inverse temperature of the loss, positive. Saved with the model.
        margin (`float`, defaults to 0.0): subtracted inside the sigmoid; added to a row's own `margin` if any.
        preference_label_smoothing (`float`, defaults to 0.0):
            probability that a preference label is wrong, in [0, 0.5). `label_smoothing_factor` is another, for tokens.
        loss_type (`str`, defaults to `"sigmoid"`):
            `"sigmoid"`, the likelihood of the preferences (arXiv 2410.08193), or `"hinge"` (arXiv 2305.10425).
        length_normalize (`bool`, defaults to `False`):
            train on log-probabilities per token (SimPO, arXiv 2405.14734) instead of their sum, which is the reward of
            the paper and what guides decoding. Raise `beta` with it: SimPO's is 2 to 10.
        subtract_reference (`bool`, defaults to `False`):
            train on log-probabilities less those of the backbone as it was before training: DPO's loss (eq. 7 of
            arXiv 2305.18290), with the reward model as its policy. The difference is what `margin` and
            `length_normalize` apply to. Guidance is by the model's own log-probabilities in any case. With an adapter,
            also one that is trained further, the backbone is the model without it; if all weights are trained, it is a
            copy of the model as given, in memory beside it. Costs a forward a step.
        score_margin (`float`, defaults to 0.0):
            margin per unit by which the scores of a pair's responses differ, added to the other margins (cf. the
            margins by rating in section 3.2.2 of arXiv 2307.09288). Not negative. For data with scores.
        max_length (`int`, *optional*):
            most tokens of prompt and response together. None: the model's positions.
        overlong_responses (`str`, defaults to `"error"`):
            what becomes of pairs whose response alone is too long: `"error"` or `"drop"`.
        overlong_prompts (`str`, defaults to `"truncate"`):
            what becomes of other pairs that are too long: `"truncate"` the start of the prompt, or `"drop"` the pair.
        objective (`str`, *optional*): what the reward measures, for people: `"helpful"`, ... Saved with the model.
        prompt_template (`str`, *optional*):
            format string with `{prompt}` that prompts are put into. Saved with the model.
        share_prompts (`bool`, defaults to `True`):
            read a prompt once for both responses, where the model can. The gradients are the same.
        max_tokens_per_batch (`int`, *optional*):
            most tokens that are in memory at once, padding included. A batch of more is read and backpropagated in
            parts, with the same result. None: `per_device_train_batch_size` pairs at once, however long.
        disable_dropout (`bool`, defaults to `True`):
            switch the backbone's own dropout off, so that the same network judges both responses. An adapter's dropout
            stays.
        dataset_num_proc (`int`, *optional*): processes that tokenise a `datasets.Dataset`.

    Raises:
        ValueError: an option is outside its range.
    """

    learning_rate: float = field(
        default=5e-4, metadata={"help": "Initial learning rate; 5e-7 for full fine-tuning in the paper."}
    )
    lr_scheduler_type: SchedulerType | str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Number of passes over the pairs."})
    logging_steps: float = field(
        default=10, metadata={"help": "Steps between two logs; below 1: a share of all steps."}
    )
    beta: float = field(default=0.05, metadata={"help": "Inverse temperature of the Bradley-Terry loss."})
    margin: float = field(default=0.0, metadata={"help": "Margin inside the sigmoid."})
    preference_label_smoothing: float = field(
        default=0.0, metadata={"help": "Probability that a label is wrong, in [0, 0.5)."}
    )
    loss_type: str = field(default="sigmoid", metadata={"help": "Loss of a pair: 'sigmoid' or 'hinge'."})
    length_normalize: bool = field(default=False, metadata={"help": "Train on log-probabilities per token."})
    subtract_reference: bool = field(
        default=False, metadata={"help": "Train on log-probabilities less those from before training, as DPO does."}
    )
    score_margin: float = field(default=0.0, metadata={"help": "Margin per unit of difference in score."})
    max_length: int | None = field(
        default=None, metadata={"help": "Most tokens of prompt and response; default: the model's positions."}
    )
    overlong_responses: str = field(
        default="error", metadata={"help": "Pairs with too long a response: 'error' or 'drop'."}
    )
    overlong_prompts: str = field(
        default="truncate", metadata={"help": "Other pairs that are too long: 'truncate' the prompt or 'drop'."}
    )
    objective: str | None = field(default=None, metadata={"help": "Name of what the reward measures."})
    prompt_template: str | None = field(default=None, metadata={"help": "Format string with {prompt}."})
    share_prompts: bool = field(default=True, metadata={"help": "Read a prompt once for both responses."})
    max_tokens_per_batch: int | None = field(
        default=None, metadata={"help": "Most tokens in memory at once; a larger batch is read in parts."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Switch the backbone's dropout off."})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes for tokenising."})

    def __post_init__(self) -> None:
        """Check the options before the far slower set-up of devices."""
        _require(self.beta is not None, "beta", self.beta, "a positive number, such as 0.05")
        check_values(self.beta, None, self.prompt_template)
        _require(_is_number(self.margin), "margin", self.margin, "a finite number")
        smoothing = self.preference_label_smoothing
        rule = "a number in [0, 0.5): at 0.5 labels would say nothing"
        _require(_is_number(smoothing) and 0 <= smoothing < 0.5, "preference_label_smoothing", smoothing, rule)
        check_loss_type(self.loss_type, smoothing, "preference_label_smoothing")
        rule = "a finite number of at least 0"
        _require(_is_number(self.score_margin) and self.score_margin >= 0, "score_margin", self.score_margin, rule)
        self._check_choices()
        super().__post_init__()
        self._check_batches()
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # torch would warn that there is nothing to pin memory for

    def _check_batches(self) -> None:
        """Refuse what takes a batch for tensors with a row a pair."""
        if getattr(self.accelerator_config, "dispatch_batches", None):
            raise ValueError(
                "`accelerator_config` must not set `dispatch_batches=True`: rows of a batch hold several pairs and "
                "cannot be cut into slices. Leave it out: every process reads its own pairs."
            )
        if "inputs" in (self.include_for_metrics or ()):
            raise ValueError("`include_for_metrics` must not contain 'inputs': a batch has no single tensor of inputs.")

    def _check_choices(self) -> None:
        tokens, length = self.max_tokens_per_batch, self.max_length
        if tokens is not None and not (_is_number(tokens) and tokens >= 1):
            raise ValueError(f"`max_tokens_per_batch` must be at least 1, got {tokens!r}.")
        if length is not None and not (_is_number(length) and length >= 2):
            raise ValueError(f"`max_length` must leave room for a prompt and a response token, got {length!r}.")
        if self.overlong_responses not in ("error", "drop"):
            raise ValueError(f"`overlong_responses` must be 'error' or 'drop', got {self.overlong_responses!r}.")
        if self.overlong_prompts not in ("truncate", "drop"):
            raise ValueError(f"`overlong_prompts` must be 'truncate' or 'drop', got {self.overlong_prompts!r}.")
        if self.label_smoothing_factor != 0:
            raise ValueError(
                f"`label_smoothing_factor` smooths token targets, which this loss does not have; got "
                f"{self.label_smoothing_factor}. For labels that may be wrong, set `preference_label_smoothing`."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(holds: bool, name: str, value: Any, rule: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {rule}, got {value!r}.")
