"""`ARMTrainer`: the Hugging Face `Trainer` for autoregressive reward models.

What it trains is the backbone itself (a causal LM, or a PEFT model of one), so that everything the `Trainer` knows of
those keeps working; what it saves is a reward-model repository.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, TrainerCallback, set_seed
from transformers.utils import logging

from ..adapters import active_adapter, check_backbone, share_weights, unwrap
from ..configuration_genarm import GenARMConfig
from ..model_card import TrainingRecord, write_model_card
from ..modeling_genarm import AutoregressiveRewardModel
from .arguments import ARMTrainingArguments
from .batches import PairCollator
from .checkpoints import WholeSaves
from .data import ID_COLUMNS, TRAINING_COLUMNS, PairTokenizer, check_ids, is_tokenized, tokenize_pairs
from .losses import length_normalized, preference_loss
from .metrics import PreferenceSummary, flat, preference_summary
from .pair_forward import PairForward, choose_method
from .preferences import fingerprint
from .record import training_record
from .reference import Reference, check_reference

METRICS = ("loss", "rewards/accuracy", "rewards/margin", "logps/chosen", "logps/rejected")
"""What is averaged and logged: the loss of a pair, whether the reward of chosen is above that of rejected, beta times
their difference, and both log-probabilities in nats."""
FIGURES = (*METRICS, "lengths/chosen", "lengths/rejected", "rewards/chosen", "rewards/rejected")
"""What is known of every pair: the above, the tokens of both responses, and the rewards that the loss compares."""
_BY_LENGTH = ("group_by_length", "batch_rebalance")  # values of `train_sampling_strategy`
_SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED)

logger = logging.get_logger(__name__)


class ARMTrainer(WholeSaves):
    """Trains an [`AutoregressiveRewardModel`] on preference pairs (arXiv 2410.08193).

    Args:
        model (`str`, `PreTrainedModel`, `PeftModel` or [`AutoregressiveRewardModel`]):
            what to start from; a string is a directory or hub id of any of these. It is trained in place, except with
            `peft_config`.
        args ([`ARMTrainingArguments`], *optional*): options; the defaults write to `trainer_output`.
        train_dataset:
            rows with the strings `prompt`, `chosen` and `rejected` (or tokenised ones, see [`PairTokenizer`]): a list,
            a `datasets.Dataset`, or another dataset with a length.
        eval_dataset: the same, or a dictionary of several.
        processing_class: the tokenizer. For a `model` given as a string it is loaded from there.
        peft_config (`peft.PeftConfig`, *optional*):
            train an adapter instead of the weights. The adapter is put into a copy of the modules that shares the
            weights of `model`: no memory is spent twice, and `model` itself stays a plain model that can be guided.
        data_collator: default [`PairCollator`].
        compute_metrics:
            gets predictions `(pairs, 2)`, the log-probabilities of chosen and rejected, and labels, 0 for each pair.
        callbacks: added to the default ones.
        optimizers: optimizer and scheduler, instead of those of `args`.

    Raises:
        TypeError: `args` are not [`ARMTrainingArguments`], or `model` is no model.
        ValueError: `model` is no causal LM or has nothing to train, there is no tokenizer, a row of the data is bad, or
            `subtract_reference` would find nothing left of the backbone.

    Example:

    ```python
    >>> from tempfile import mkdtemp
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=16, hidden_size=64, intermediate_size=8, num_hidden_layers=1)
    >>> pairs = [{"prompt_ids": [1, 5], "chosen_ids": [7, 2], "rejected_ids": [9, 2]}]  # or text, with a tokenizer
    >>> args = ARMTrainingArguments(mkdtemp(), use_cpu=True, objective="sevens", beta=0.1)
    >>> trainer = ARMTrainer(LlamaForCausalLM(config), args, train_dataset=pairs)
    >>> trainer.reward_model.config.beta
    0.1

    ```
    """

    def __init__(
        self,
        model: str | os.PathLike | PreTrainedModel | nn.Module,
        args: ARMTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        compute_metrics: Callable[[Any], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        args = ARMTrainingArguments() if args is None else args
        if not isinstance(args, ARMTrainingArguments):
            raise TypeError(
                f"`args` must be ARMTrainingArguments, got {type(args).__name__}. They take its options too."
            )
        _use_one_device(args)
        if processing_class is None and isinstance(model, (str, os.PathLike)):
            processing_class = _find_tokenizer(model)
        backbone, origin = _open(model, peft_config)
        backbone = _trainable(backbone, args, peft_config)
        if args.subtract_reference:
            check_reference(backbone, args)
        _check_dropout(unwrap(backbone).config)
        self._origin, self._encode = origin, _pair_tokenizer(processing_class, backbone, origin, args)
        # where the pairs came from, for the model card; whoever knows may say
        self.data_source: str | None = None
        self.held_out_source: str | None = None
        self._texts, self._fingerprint = train_dataset, ""
        self._known_ids = unwrap(backbone).get_input_embeddings().weight.shape[0]
        config = unwrap(backbone).config
        use_cache = getattr(config, "use_cache", True)
        super().__init__(
            model=backbone,
            args=args,
            data_collator=data_collator or PairCollator(0, True, args.max_tokens_per_batch),
            train_dataset=_with_lengths(self._tokenized(train_dataset, "train_dataset", args), args),
            eval_dataset=self._tokenized(eval_dataset, "eval_dataset", args),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # the Trainer switches the cache off in the configuration, which would be saved; forwards here say so themselves
        config.use_cache = use_cache
        # losses are sums over the pairs of a whole optimizer step (`get_batch_samples`), not to be divided again
        self.model_accepts_loss_kwargs = True
        self._read = self._reader(backbone)
        # not a part of the model: neither trained nor saved, and what a checkpoint brings does not reach it
        self._reference = Reference(backbone, self._read, args.device) if args.subtract_reference else None
        self._seen = _PairMeans(self.accelerator.reduce)
        self._evaluated: list[Tensor] = []
        self._held_out: tuple[int, PreferenceSummary] | None = None  # and the step it was found at

    # ------------------------------------------------------------------ what comes out

    @property
    def reward_model(self) -> AutoregressiveRewardModel:
        """The reward model as trained so far, in eval mode, over the same weights; ready to guide."""
        arm = self._wrap(self.accelerator.unwrap_model(self.model))
        return arm.eval()

    @property
    def held_out(self) -> PreferenceSummary | None:
        """What the last evaluation found, if the weights are still those that it was of."""
        step, summary = self._held_out or (None, None)
        return summary if step == self.state.global_step else None

    def _wrap(self, backbone: nn.Module) -> AutoregressiveRewardModel:
        """Read a backbone as a reward model with the options it was trained with."""
        return AutoregressiveRewardModel.from_backbone(
            backbone,
            beta=self.args.beta,
            alpha=self._origin.alpha,
            objective=self.args.objective or self._origin.objective,
            prompt_template=self.args.prompt_template or self._origin.prompt_template,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write a reward-model repository. The Trainer's pickled `training_args.bin` is left out: nothing reads it."""
        directory = output_dir or self.args.output_dir
        arm = self._wrap(self.accelerator.unwrap_model(self.model))
        arm.save_pretrained(
            directory, tokenizer=self.processing_class, state_dict=state_dict, is_main_process=self.args.should_save
        )
        if self.args.should_save:
            write_model_card(arm.config, Path(directory), repo_id=self.hub_model_id, training=self._record())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the reward model's card; the `Trainer` asks for one before it pushes to the hub."""
        if self.is_world_process_zero():
            config, directory = self.reward_model.config, Path(self.args.output_dir)
            write_model_card(config, directory, repo_id=self.hub_model_id, training=self._record())

    # ------------------------------------------------------------------ what goes in

    def _tokenized(self, dataset: Any, name: str, args: ARMTrainingArguments) -> Any:
        """The dataset as ids; a dictionary of datasets entry by entry."""
        if dataset is None:
            return None
        if isinstance(dataset, Mapping):
            return {key: self._tokenized(part, f"{name}[{key!r}]", args) for key, part in dataset.items()}
        encode = self._encode(name)
        if encode.tokenizer is None and not is_tokenized(dataset):
            raise ValueError(f"`{name}` holds text, which needs a tokenizer. Pass it as `processing_class`.")
        # one process tokenises and the others read what it cached
        with args.main_process_first(desc=f"tokenizing {name}"):
            rows = tokenize_pairs(dataset, encode, args.dataset_num_proc)
        if encode.tokenizer is None or len(encode.tokenizer) > self._known_ids:  # else no id can be too large
            check_ids(rows, name, self._known_ids)
        return rows

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in `Trainer`, from rows of text too."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._tokenized(eval_dataset, "eval_dataset", self.args)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As in `Trainer`, from rows of text too."""
        return super().get_test_dataloader(self._tokenized(test_dataset, "test_dataset", self.args))

    def _set_signature_columns_if_needed(self) -> None:
        """The columns that a batch is made of are ours, not arguments of the model's forward."""
        self._signature_columns = [*TRAINING_COLUMNS, self.args.length_column_name]

    # ------------------------------------------------------------------ the loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one optimizer step and how many pairs they hold, on all processes together.

        Dividing by this number makes gradient accumulation exact, even where a last micro-batch is smaller.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            self._mark_copies(batches[-1])
        pairs = sum(len(batch["order"]) - _count_copies(batch) for batch in batches)
        if self.accelerator.num_processes > 1:
            return batches, self.accelerator.gather(torch.tensor(pairs, device=device)).sum()
        return batches, pairs

    def _mark_copies(self, batch: dict[str, Any]) -> None:
        """Where a last batch has too few pairs for all processes, some get pairs again; these weigh nothing."""
        state, rows = self.accelerator.gradient_state, len(batch["order"])
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return
        own = max(state.remainder - rows * self.accelerator.process_index, 0)
        sizes = [len(part["response_lengths"]) for part in batch["parts"]]
        for part, copies in zip(batch["parts"], (batch["order"] >= own).split(sizes), strict=True):
            part["copy"] = copies

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a batch, part by part: no more than `max_tokens_per_batch` tokens are in memory."""
        batches = [{"order": part["response_lengths"], "parts": [part]} for part in self._even_parts(inputs["parts"])]
        losses, state = [], self.accelerator.gradient_state
        synchronizes = state.sync_gradients
        try:
            for batch in batches:
                # processes exchange gradients, and DeepSpeed takes its step, once a batch: after its last part
                last = batch is batches[-1]
                state._set_sync_gradients(synchronizes and last)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    losses.append(super().training_step(model, batch, num_items_in_batch))
        finally:
            state._set_sync_gradients(synchronizes)
        return torch.stack(losses).sum()

    def _even_parts(self, parts: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """As many parts as every other process has, where a forward needs all of them; added parts weigh nothing."""
        if self.accelerator.distributed_type not in _SHARDING:
            return parts
        count = self.accelerator.gather(torch.tensor(len(parts), device=self.args.device)).max()
        smallest = min(parts, key=lambda part: part["input_ids"].numel())
        blank = smallest | {"copy": torch.ones(len(smallest["response_lengths"]), dtype=torch.bool)}
        return parts + [blank] * (int(count) - len(parts))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of a batch of pairs.

        Args:
            model: the wrapped backbone.
            inputs: what [`PairCollator`] makes.
            return_outputs: also return the figures of every pair, `(batch, len(FIGURES))`.
            num_items_in_batch: pairs in the optimizer step. None: the loss is the mean of this batch.
        """
        parts = inputs["parts"] if model.training else self._even_parts(inputs["parts"])
        figures = [self._figures(model, part) for part in parts][: len(inputs["parts"])]
        losses = torch.cat([loss for loss, _ in figures])
        seen = torch.cat([figure for _, figure in figures])
        if model.training:
            for part, (_, figure) in zip(inputs["parts"], figures, strict=True):
                self._seen.update(figure[~part["copy"]] if "copy" in part else figure)
        if num_items_in_batch is None:
            loss = losses.mean()
        else:
            # processes average their gradients, and each holds its share of the sum
            loss = losses.sum() * self.accelerator.num_processes / num_items_in_batch
        return (loss, seen[inputs["order"].argsort()]) if return_outputs else loss

    def _figures(self, model: nn.Module, part: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Losses `(pairs,)` with their graph, and what is known of each pair, `(pairs, len(FIGURES))`, without."""
        reference = self.reference_logprobs(model, part)  # before the graph of the others is in memory
        logps, lengths = self.pair_logprobs(model, part), part["response_lengths"]
        rewards = logps if reference is None else logps - reference
        rewards = length_normalized(rewards, lengths) if self.args.length_normalize else rewards
        margin = self.args.margin + part.get("margin", 0.0) + self.args.score_margin * part.get("score_difference", 0.0)
        chosen, rejected = rewards.unbind(-1)
        smoothing = self.args.preference_label_smoothing
        losses = preference_loss(chosen, rejected, self.args.beta, margin, smoothing, self.args.loss_type)
        losses = losses * part.get("weight", 1.0)
        if "copy" in part:
            losses = losses.masked_fill(part["copy"], 0.0)
        chosen, rejected = rewards.detach().unbind(-1)
        above = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        columns = [losses.detach(), above, self.args.beta * (chosen - rejected), *logps.detach().unbind(-1)]
        return losses, torch.stack([*columns, *lengths.to(chosen.dtype).unbind(-1), chosen, rejected], dim=-1)

    def pair_logprobs(self, model: nn.Module, part: dict[str, Tensor]) -> Tensor:
        """Log-probabilities `(pairs, 2)` of chosen and of rejected responses, by one forward of the wrapped model.

        Args:
            model: the wrapped backbone.
            part: one of the `parts` that [`PairCollator`] makes.
        """
        with self.accelerator.autocast():
            return self._read(model, part)

    def reference_logprobs(self, model: nn.Module, part: dict[str, Tensor]) -> Tensor | None:
        """The same under the backbone as it was before training; None without `subtract_reference`.

        Args:
            model: the wrapped backbone.
            part: one of the `parts` that [`PairCollator`] makes.
        """
        if self._reference is None:
            return None
        with self.accelerator.autocast():
            return self._reference(model, self.accelerator.unwrap_model(model), part)

    def _reader(self, backbone: nn.Module) -> PairForward:
        """How pairs are read, which the collator has to know too."""
        method = choose_method(backbone, self.args.share_prompts)
        if method.reason is not None and self.is_world_process_zero():
            what = "twice" if method.skip_logits else "twice and with all logits"
            logger.warning(f"Prompts are read {what}, which takes more time and memory: {method.reason}.")
        if isinstance(self.data_collator, PairCollator):
            self.data_collator.share_prompts = method.share_prompts
        return PairForward(backbone, method)

    # ------------------------------------------------------------------ what is logged

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the averages over all pairs since the last log to what the `Trainer` logs while training."""
        if "loss" in logs:
            means = self._seen.pop()
            logs |= {name: value for name, value in means.items() if name != "loss"}
        super().log(logs, start_time)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, log-probabilities `(batch, 2)` of chosen and rejected, labels `(batch,)`, all 0: the chosen column."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, figures = self.compute_loss(model, inputs, return_outputs=True)
        # gathered here, where the rows that processes got twice are dropped: averages are over every pair once
        self._evaluated.append(self.accelerator.gather_for_metrics(figures))
        if prediction_loss_only:
            return loss, None, None
        return loss, figures[:, 3:5].contiguous(), torch.zeros(len(figures), dtype=torch.long, device=figures.device)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`, with what is known of all pairs together among the metrics."""
        prefix = kwargs.get("metric_key_prefix", "eval")
        self._evaluated = []
        output = super().evaluation_loop(*args, **kwargs)
        found = self._held_out_metrics() if self._evaluated else {}
        output.metrics.update({f"{prefix}_{name}": value for name, value in found.items()})
        return output

    def _held_out_metrics(self) -> dict[str, float]:
        figures = torch.cat(self._evaluated).double().cpu().numpy()
        # rewards are what the loss compares: with a reference, the differences from it
        lengths, rewards = figures[:, 5:7], figures[:, 7:9]
        summary = preference_summary(*rewards.T, *lengths.T, beta=self.args.beta)
        self._held_out = self.state.global_step, summary
        return dict(zip(METRICS, figures.mean(0).tolist(), strict=False)) | flat(summary)

    def _record(self) -> TrainingRecord:
        """How the weights came about."""
        if self._texts is not None and not self._fingerprint:
            self._fingerprint = fingerprint(self._texts)  # of the texts, and once
        seconds = [log["train_runtime"] for log in self.state.log_history if "train_runtime" in log]
        found = active_adapter(self.accelerator.unwrap_model(self.model))
        return training_record(
            self.args,
            data=self.data_source,
            pairs=len(self.train_dataset) if self.train_dataset is not None else None,
            fingerprint=self._fingerprint or None,
            adapter=found[1] if found is not None else None,
            seconds=seconds[-1] if seconds else None,
            held_out=self.held_out.to_dict() if self.held_out is not None else None,
            held_out_data=self.held_out_source,
        )


def _count_copies(batch: dict[str, Any]) -> int:
    """How many pairs of a batch only keep a process in step with the others."""
    return sum(int(part["copy"].sum()) for part in batch["parts"] if "copy" in part)


class _PairMeans:
    """Averages of the figures of pairs, over however many were seen.

    Args:
        reduce: sums a tensor over all processes.
    """

    def __init__(self, reduce: Callable[..., Tensor]) -> None:
        self._reduce = reduce
        self._sums: Tensor | None = None

    def update(self, figures: Tensor) -> None:
        """Count `(batch, len(FIGURES))` figures in. Nothing is read from the device."""
        sums = torch.cat([figures.new_tensor([len(figures)]), figures.sum(0)])
        self._sums = sums if self._sums is None else self._sums + sums

    def pop(self) -> dict[str, float]:
        """Name to average since the last call; empty where no pair was seen."""
        sums, self._sums = self._sums, None
        if sums is None:
            return {}
        count, *totals = self._reduce(sums, reduction="sum").tolist()
        return {name: total / count for name, total in zip(FIGURES, totals, strict=True) if name in METRICS}


def _check_dropout(config: Any) -> None:
    """Refuse shares that are none, which fail in the first forward of training and in no other.

    Raises:
        ValueError: as said.
    """
    for name, value in config.get_text_config(decoder=True).to_dict().items():
        if "drop" in name and isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise ValueError(f"`{name}` in the model's config.json must be between 0 and 1, got {value}.")


def _use_one_device(args: ARMTrainingArguments) -> None:
    """One process trains on one GPU: `DataParallel` would cut rows of packed pairs apart."""
    if args.n_gpu > 1:
        logger.warning(
            f"Training on one of {args.n_gpu} GPUs. To use all, start a process for each: "
            f"torchrun --nproc_per_node {args.n_gpu} ..., or accelerate launch."
        )
        args._n_gpu = 1


def _open(model: Any, peft_config: Any) -> tuple[nn.Module, GenARMConfig]:
    """The causal LM (or PEFT model) to train, and the configuration of the reward model it comes from."""
    if isinstance(model, (str, os.PathLike)):
        # adapters keep the base's stored precision; weights that are trained themselves need float32
        dtype = "auto" if peft_config is not None else torch.float32
        model = AutoregressiveRewardModel.from_pretrained(model, dtype=dtype)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` must be a causal LM, a PeftModel, a reward model or the name of one, got {type(model).__name__}."
        )
    if isinstance(model, AutoregressiveRewardModel):
        return model.backbone, model.config
    return model, GenARMConfig()


def _trainable(backbone: Any, args: ARMTrainingArguments, peft_config: Any) -> nn.Module:
    """Check that the backbone can be trained as a reward model, and put the adapter in where one is asked for."""
    check_backbone(backbone)
    if peft_config is not None:
        backbone = _with_adapter(backbone, args, peft_config)
    else:
        _unfreeze_adapter(backbone)
    if args.disable_dropout:
        _disable_dropout(backbone)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ValueError("`model` has no parameter with `requires_grad`. Unfreeze it, or pass a `peft_config`.")
    return backbone


def _with_adapter(backbone: Any, args: ARMTrainingArguments, peft_config: Any) -> nn.Module:
    from peft import get_peft_model

    if active_adapter(backbone) is not None:
        raise ValueError(
            "`peft_config` was given for a model that already has an adapter. Leave it out to train that adapter, or "
            "merge it first (`merge_and_unload()`)."
        )
    # sharded training moves weights around; only a model that stays where it is can share them
    if args.world_size == 1 and not args.fsdp and args.deepspeed is None:
        if not hasattr(backbone, "hf_device_map"):
            backbone.to(args.device)
        backbone = share_weights(backbone)
    set_seed(args.seed)  # the adapter is drawn here, before the Trainer seeds
    with warnings.catch_warnings():
        # what PEFT asks transformers was renamed there; nobody who trains can do anything about it
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(backbone, peft_config)


def _unfreeze_adapter(backbone: Any) -> None:
    """Make an adapter that was loaded for inference trainable again, and nothing but it."""
    found = active_adapter(backbone)
    if found is None or not found[1].inference_mode:
        return
    name, config = found
    config.inference_mode = False
    backbone.requires_grad_(False)
    backbone.set_adapter(name)


def _disable_dropout(backbone: nn.Module) -> None:
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0
        for attribute, value in vars(module).items():
            if isinstance(value, float) and "drop" in attribute:  # what is dropped by a function, not by a module
                setattr(module, attribute, 0.0)


def _with_lengths(rows: Any, args: ARMTrainingArguments) -> Any:
    """Rows as the samplers of the `Trainer` need them that look at lengths: in a `datasets.Dataset`, with a column."""
    if rows is None or args.train_sampling_strategy not in _BY_LENGTH:
        return rows
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} needs datasets: pip install 'genarm-hf[train]'."
        ) from error
    if not isinstance(rows, Dataset):
        rows = Dataset.from_list([dict(rows[place]) for place in range(len(rows))])
    if args.length_column_name in rows.column_names:
        return rows
    lengths = [sum(len(row[column]) for column in ID_COLUMNS) for row in rows]
    return rows.add_column(args.length_column_name, lengths)


def _find_tokenizer(name: str | os.PathLike) -> Any:
    """The tokenizer of a repository; None where it has none, which matters only to data that is text."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        return None


def _pair_tokenizer(
    tokenizer: Any, backbone: Any, origin: GenARMConfig, args: ARMTrainingArguments
) -> Callable[[str], PairTokenizer]:
    """Makes the tokeniser of a dataset, given what messages call that dataset."""
    positions = getattr(unwrap(backbone).config.get_text_config(decoder=True), "max_position_embeddings", None)
    template = args.prompt_template or origin.prompt_template
    drop = args.overlong_responses == "drop"
    length = args.max_length or positions
    return lambda name: PairTokenizer(tokenizer, length, template, drop, name, args.overlong_prompts)
