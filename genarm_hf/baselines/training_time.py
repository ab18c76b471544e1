"""Alignment by training, which guidance is compared with: SFT, DPO and SimPO, by TRL on the same ids as ours.

TRL makes ids of prompt and response together, and another boundary between them; here its trainers are given the ids of
`ARMTrainer`: the prompt's, the response's, and one end of sequence.
"""

import copy
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..adapters import unwrap
from ..training.data import PairTokenizer, tokenize_pairs

Rows = list[dict[str, Any]]

ADAPTER_LEARNING_RATE = 5e-4
"""Of LoRA, as GenARM trains its reward models (arXiv 2410.08193, appendix); papers below tune all weights."""


def train_sft(
    model: Any,
    tokenizer: Any,
    pairs: Any,
    *,
    learning_rate: float | None = None,
    epochs: float = 1,
    batch_size: int = 32,
    seed: int = 42,
    peft_config: Any = None,
    output_dir: str | None = None,
    max_length: int | None = None,
    prompt_template: str | None = None,
    **arguments: Any,
) -> Any:
    """Supervised fine-tuning on the preferred responses: the mean of `-log pi(token)` over the batch's response tokens.

    It is "Preferred-FT" of the DPO paper (arXiv 2305.18290, section 6); repository huggingface/trl, `SFTTrainer`.

    Args:
        model: a causal LM. It is trained itself, or gets the adapter inside.
        tokenizer: the model's.
        pairs: rows with `prompt`, `chosen` and `rejected`, see [`ARMTrainer`]; of text, or tokenised.
        learning_rate: None: 5e-4 for an adapter, 2e-5 for all weights.
        epochs: passes over the data.
        batch_size: pairs per step; per device and forward, see `gradient_accumulation_steps`.
        seed: of the order of the data, and of a new adapter.
        peft_config: a `LoraConfig` for an adapter; None: all weights are trained.
        output_dir: where the trained model is saved. None: nowhere.
        max_length: most tokens of prompt and response; a longer prompt loses its start.
        prompt_template: format string with `{prompt}`.
        **arguments: other options of TRL's configuration.

    Returns:
        the trained model in evaluation mode; a `PeftModel` where `peft_config` is given.

    Raises:
        ImportError: TRL is not installed.
        ValueError: a row is bad, see [`ARMTrainer`].
    """
    _check_installed()
    from trl import SFTConfig, SFTTrainer

    rows = _rows(tokenizer, pairs, max_length, prompt_template)
    texts = [(row["prompt_ids"], row["chosen_ids"]) for row in rows]
    data = [{"input_ids": [*x, *y], "labels": [*[-100] * len(x), *y]} for x, y in texts]
    options = _options(model, learning_rate, 2e-5, epochs, batch_size, seed, peft_config)
    options["dataset_kwargs"] = {"skip_prepare_dataset": True}
    return _train(SFTTrainer, SFTConfig, model, tokenizer, data, options | arguments, peft_config, output_dir)


def train_dpo(
    model: Any,
    tokenizer: Any,
    pairs: Any,
    *,
    beta: float = 0.1,
    learning_rate: float | None = None,
    epochs: float = 1,
    batch_size: int = 32,
    seed: int = 42,
    peft_config: Any = None,
    output_dir: str | None = None,
    max_length: int | None = None,
    prompt_template: str | None = None,
    **arguments: Any,
) -> Any:
    """DPO (arXiv 2305.18290, eq. 7; repository eric-mitchell/direct-preference-optimization).

    The loss is `-log sigmoid(beta (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l)))`. The reference is the model as
    it is given: without the adapter, or a copy where all weights are trained. Dropout is switched off, as in TRL.

    Args:
        model: as in [`train_sft`], as all that is not said here.
        tokenizer: the model's.
        pairs: preference pairs.
        beta: strength of the KL regularisation.
        learning_rate: None: 5e-4 for an adapter, the paper's 1e-6 for all weights.
        epochs: passes over the data.
        batch_size: pairs per step.
        seed: of order and adapter.
        peft_config: for an adapter.
        output_dir: where the trained model is saved.
        max_length: most tokens of prompt and response.
        prompt_template: format string with `{prompt}`.
        **arguments: other options of TRL's configuration.

    Returns:
        the trained model in evaluation mode.
    """
    _check_installed()
    from trl import DPOConfig, DPOTrainer

    class OnOurIds(DPOTrainer):
        """Takes ids as they are; TRL 1.16 has no option for that."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    data = _rows(tokenizer, pairs, max_length, prompt_template)
    options = _options(model, learning_rate, 1e-6, epochs, batch_size, seed, peft_config) | {"beta": beta}
    options["precompute_ref_log_probs"] = epochs > 1  # what the reference says of a pair is the same in every pass
    # TRL would load it anew by the model's name
    extra = {} if peft_config is not None else {"ref_model": copy.deepcopy(model).eval()}
    return _train(OnOurIds, DPOConfig, model, tokenizer, data, options | arguments, peft_config, output_dir, **extra)


def train_simpo(
    model: Any,
    tokenizer: Any,
    pairs: Any,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    learning_rate: float | None = None,
    epochs: float = 1,
    batch_size: int = 32,
    seed: int = 42,
    peft_config: Any = None,
    output_dir: str | None = None,
    max_length: int | None = None,
    prompt_template: str | None = None,
    **arguments: Any,
) -> Any:
    """Simple preference optimisation (SimPO, arXiv 2405.14734, eq. 6; repository princeton-nlp/SimPO).

    The loss is `-log sigmoid(beta (log pi(y_w)/|y_w| - log pi(y_l)/|y_l|) - gamma)`, without a reference. In TRL it is
    `CPOTrainer` with `loss_type="simpo"` and `cpo_alpha=0` (1.16: among the experimental trainers).

    Args:
        model: as in [`train_sft`], as all that is not said here.
        tokenizer: the model's.
        pairs: preference pairs.
        beta: scale of the reward; the paper's is 2 to 10.
        gamma: target margin; the paper sets `gamma / beta` to 0.3 to 0.5 first.
        learning_rate: None: 5e-4 for an adapter, the paper's 1e-6 for all weights.
        epochs: passes over the data.
        batch_size: pairs per step.
        seed: of order and adapter.
        peft_config: for an adapter.
        output_dir: where the trained model is saved.
        max_length: most tokens of prompt and response.
        prompt_template: format string with `{prompt}`.
        **arguments: other options of TRL's configuration.

    Returns:
        the trained model in evaluation mode.
    """
    _check_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        from trl.experimental.cpo import CPOConfig, CPOTrainer

    class OnOurIds(CPOTrainer):
        """Takes ids as they are: texts are no more than names of rows."""

        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return _labelled(feature)

    named = {"prompt": "", "chosen": "", "rejected": ""}
    data = [row | named for row in _rows(tokenizer, pairs, max_length, prompt_template)]
    options = _options(model, learning_rate, 1e-6, epochs, batch_size, seed, peft_config)
    options |= {"beta": beta, "simpo_gamma": gamma, "loss_type": "simpo", "cpo_alpha": 0.0, "max_length": 2**30}
    options |= {"remove_unused_columns": False}
    return _train(OnOurIds, CPOConfig, model, tokenizer, data, options | arguments, peft_config, output_dir)


def _labelled(row: dict[str, Any]) -> dict[str, Any]:
    """A pair as TRL's collator for CPO reads it."""
    fields = {"prompt_input_ids": row["prompt_ids"], "prompt_attention_mask": [1] * len(row["prompt_ids"])}
    for name in ("chosen", "rejected"):
        response = row[f"{name}_ids"]
        ids = [*row["prompt_ids"], *response]
        fields[f"{name}_input_ids"], fields[f"{name}_attention_mask"] = ids, [1] * len(ids)
        fields[f"{name}_labels"] = [*[-100] * len(row["prompt_ids"]), *response]
    return fields


def _rows(tokenizer: Any, pairs: Any, max_length: int | None, prompt_template: str | None) -> Rows:
    encode = PairTokenizer(tokenizer, max_length=max_length, prompt_template=prompt_template, name="pairs")
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [{name: list(row[name]) for name in columns} for row in tokenize_pairs(pairs, encode)]


def _options(
    model: Any,
    learning_rate: float | None,
    full_rate: float,
    epochs: float,
    batch_size: int,
    seed: int,
    peft_config: Any,
) -> dict[str, Any]:
    """Options of every trainer: quiet, no checkpoints, the model's own precision."""
    default = full_rate if peft_config is None else ADAPTER_LEARNING_RATE
    return {
        "learning_rate": default if learning_rate is None else learning_rate,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "seed": seed,
        "max_length": None,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": unwrap(model).device.type == "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _train(
    trainer_class: Any,
    config_class: Any,
    model: Any,
    tokenizer: Any,
    data: Sequence[dict[str, Any]],
    options: dict[str, Any],
    peft_config: Any,
    output_dir: str | None,
    **extra: Any,
) -> Any:
    """Train, and give the model back without what TRL puts into it."""
    from datasets import Dataset
    from transformers import PrinterCallback

    torch.manual_seed(options["seed"])  # of a new adapter
    inner = unwrap(model)
    use_cache, pad, generation = inner.config.use_cache, inner.config.pad_token_id, copy.copy(inner.generation_config)
    forward = inner.__dict__.get("forward")
    with tempfile.TemporaryDirectory() as scratch, _quietly():
        trainer = trainer_class(
            model=model,
            args=config_class(output_dir=output_dir or scratch, **options),
            train_dataset=Dataset.from_list(list(data)),
            processing_class=copy.deepcopy(tokenizer),
            peft_config=peft_config,
            **extra,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    # TRL patches the forward (1.16: a fused head), switches the cache off and sets the padding id
    inner.__dict__.pop("forward", None)
    if forward is not None:
        inner.__dict__["forward"] = forward
    inner.config.use_cache, inner.config.pad_token_id, inner.generation_config = use_cache, pad, generation
    if output_dir is not None:
        trained.save_pretrained(output_dir)
        tokenizer.save_pretrained(output_dir)
    return trained.eval()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars of datasets, and TRL's warnings of what is meant here."""
    from datasets.utils import disable_progress_bars, enable_progress_bars, is_progress_bar_enabled

    shown = is_progress_bar_enabled()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            enable_progress_bars()


def _check_installed() -> None:
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise ImportError("Training baselines need TRL: pip install 'genarm-hf[reproduce]'.") from error
