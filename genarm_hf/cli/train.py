"""`genarm-hf train`: a reward model from preference pairs, on one process or as many as a launcher starts."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from .files import check_place
from .loading import _adapter_base, load_tokenizer, quiet
from .parsing import CommandParser, UsageError, check_seed
from .text import table

if TYPE_CHECKING:
    from ..training import ARMTrainer, ARMTrainingArguments

_PAIRS_A_STEP = 32  # of the paper
_LEARNING_RATE, _FULL_LEARNING_RATE = 5e-4, 5e-7
_OURS = {"output_dir", "do_train", "do_eval", "do_predict"}  # options of the Trainer that this command sets itself
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_LORA = ("lora_r", "lora_alpha", "lora_dropout", "target_modules")
_LONGEST_PROMPT = 80  # characters of a prompt that is shown in a command to try


@dataclass
class TrainOptions:
    """What may be asked for, beside the options of `ARMTrainingArguments`."""

    model: str = field(metadata={"help": "the base model: folder or hub name", "metavar": "BASE"})
    data: str = field(
        metadata={
            "help": "preference pairs: hub name, or json, jsonl(.gz), parquet or csv file",
            "metavar": "SOURCE",
        }
    )
    output: str = field(metadata={"help": "folder for the reward model and its checkpoints", "metavar": "DIR"})
    config: str | None = field(
        default=None,
        metadata={"help": "yaml file with these options; those of the command line win", "metavar": "FILE"},
    )
    eval_data: str | None = field(
        default=None, metadata={"help": "pairs to hold out; their prompts are not trained on", "metavar": "SOURCE"}
    )
    eval_split: str | None = field(
        default=None,
        metadata={"help": "split of --eval-data (default: of several, test or validation)", "metavar": "S"},
    )
    eval_size: float = field(
        default=0.1,
        metadata={"help": "else: share of the pairs to hold out, by prompt; 0: none", "metavar": "X"},
    )
    split: str | None = field(default=None, metadata={"help": "split of the data, such as train", "metavar": "S"})
    max_pairs: int | None = field(default=None, metadata={"help": "only the first N pairs", "metavar": "N"})
    skip_bad_rows: bool = field(default=False, metadata={"help": "leave bad rows out and say how many"})
    lora_r: int = field(default=8, metadata={"help": "rank of the adapter", "metavar": "R"})
    lora_alpha: int = field(default=16, metadata={"help": "scale of the adapter, times its rank", "metavar": "A"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout before the adapter", "metavar": "P"})
    target_modules: str = field(
        default="all-linear",
        metadata={"help": "modules to adapt: names with commas between, or all-linear", "metavar": "M,M"},
    )
    full: bool = field(default=False, metadata={"help": "train all weights instead of an adapter"})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "precision of the weights; auto: as stored, float32 with --full"}
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "hold the base in 4 bits under the adapter (QLoRA, needs bitsandbytes)"}
    )
    resume: bool = field(default=False, metadata={"help": "go on from the last complete checkpoint in DIR"})
    overwrite: bool = field(
        default=False, metadata={"help": "train into a DIR that is not empty; its checkpoints are removed"}
    )
    training: dict[str, Any] = field(init=False)
    given: set[str] = field(init=False)  # names of options that somebody wrote


class TrainParser(CommandParser):
    """The options of this command, those of `ARMTrainingArguments`, and a yaml file with any of them."""

    def __init__(self) -> None:
        super().__init__(
            TrainOptions,
            "train",
            "Train an autoregressive reward model on preference pairs: a LoRA adapter on all linear layers, with the "
            "settings of the paper (arXiv 2410.08193).",
            usage="genarm-hf train --model BASE --data SOURCE --objective NAME --output DIR [options]",
        )
        own, rest = _training_fields()
        self.add_fields("training a reward model", own)
        self.add_fields("all options of transformers' TrainingArguments", rest)
        self.set_defaults(**_defaults())

    def parse(self, argv: Sequence[str]) -> TrainOptions:
        """As in [`CommandParser`]; options may be spelled with underscores too, as scripts of transformers do."""
        argv = [_hyphenated(token) for token in argv]
        config = _value_of("--config", argv)
        argv = argv if config is None else [*self.written_out(config), *argv]
        options, training = self.parse_all(argv)
        options.training = training
        options.given = {token.partition("=")[0] for token in argv if token.startswith("--")}
        return options


def _training_fields() -> tuple[list[Field], list[Field]]:
    """Options of `ARMTrainingArguments`: its own, and what it has from `TrainingArguments`."""
    from transformers import TrainingArguments

    from ..training import ARMTrainingArguments

    types, theirs = get_type_hints(ARMTrainingArguments), {entry.name for entry in fields(TrainingArguments)}
    found = [entry for entry in fields(ARMTrainingArguments) if entry.init and entry.name not in _OURS]
    for entry in found:
        entry.type = types[entry.name]
    own = {"learning_rate", "lr_scheduler_type", "num_train_epochs", "per_device_train_batch_size", "seed"}
    is_own = [entry.name in own or entry.name not in theirs for entry in found]
    return (
        [entry for entry, mine in zip(found, is_own, strict=True) if mine],
        [entry for entry, mine in zip(found, is_own, strict=True) if not mine],
    )


def _defaults() -> dict[str, Any]:
    """Where this command, which people watch, differs from `ARMTrainingArguments`. None: what depends on others."""
    return {
        "learning_rate": None,
        "per_device_train_batch_size": None,
        "max_tokens_per_batch": 4096,
        "save_total_limit": 2,
        "hub_strategy": "end",
        "disable_tqdm": None,
    }


def _hyphenated(token: str) -> str:
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else token


def _value_of(name: str, argv: Sequence[str]) -> str | None:
    """The value of an option, before the others are known."""
    for place, token in enumerate(argv):
        if token.startswith(f"{name}="):
            return token.partition("=")[2]
        if token == name and place + 1 < len(argv):
            return argv[place + 1]
    return None


def parser() -> TrainParser:
    """The command line of `genarm-hf train`."""
    return TrainParser()


def run(options: TrainOptions) -> None:
    """Read the data, train, save, and say how good it is."""
    _check(options)
    arguments = _arguments(options)
    with quiet():
        tokenizer = load_tokenizer("--model", options.model)
        _check_full(options, arguments)
        pairs, held_out = _data(options, arguments)
        _say(arguments, f"{len(pairs)} pairs to train on, {len(held_out or [])} held out.")
        trainer = _trainer(options, arguments, tokenizer, pairs, held_out)
        _say(arguments, _what_is_trained(trainer))
        _train(trainer, _checkpoint(options, arguments))
        trainer.save_model()
        if held_out is not None:
            trainer.predict(trainer.eval_dataset)  # as `evaluate`, but without logging
            trainer.create_model_card()
        if trainer.is_world_process_zero():
            _report(options, trainer.held_out, held_out)
        if arguments.push_to_hub:
            trainer.push_to_hub()


def _train(trainer: "ARMTrainer", checkpoint: bool | str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyError as error:
        if "metric_for_best_model" not in str(error):  # what transformers says of a figure that is not measured
            raise
        raise UsageError(str(error.args[0])) from error


# ---------------------------------------------------------------------- before anything is loaded


def _check(options: TrainOptions) -> None:
    """Everything that can be wrong before data and models are loaded."""
    training = options.training
    _at_least("lora_r", options.lora_r, 1)
    _at_least("lora_alpha", options.lora_alpha, 1)
    _at_least("max_pairs", options.max_pairs, 1)
    for name in ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size"):
        _at_least(name, training[name], 1)
    if not 0 <= options.lora_dropout < 1:
        raise UsageError(f"`--lora-dropout` must be at least 0 and below 1, got {options.lora_dropout}.")
    if not 0 <= options.eval_size < 1:
        raise UsageError(f"`--eval-size` must be a share of at least 0 and below 1, got {options.eval_size}.")
    rate = training["learning_rate"]
    if rate is not None and not 0 <= rate < float("inf"):
        raise UsageError(f"`--learning-rate` must be a number of at least 0, got {rate}.")
    check_seed("--seed", training["seed"])
    check_seed("--data-seed", training["data_seed"])
    if options.eval_split is not None and options.eval_data is None:
        raise UsageError("`--eval-split` is a split of `--eval-data`, which is missing.")
    if options.full and options.load_in_4bit:
        raise UsageError("`--full` trains all weights, and weights of `--load-in-4bit` cannot be trained. Drop one.")
    if options.load_in_4bit:
        _require_bitsandbytes()
    _check_json(training)
    _check_optim_args(training["optim_args"])
    _check_output(options, training["resume_from_checkpoint"])


def _check_json(training: dict[str, Any]) -> None:
    """Options of `TrainingArguments` that are json objects, some of them in a file, which fails far from their name."""
    from transformers import TrainingArguments

    for name in TrainingArguments._VALID_DICT_FIELDS:
        value = training.get(name)
        if not isinstance(value, str):
            continue
        try:
            in_file = not (value.startswith("{") or name.endswith("_kwargs"))
            found = json.loads(Path(value).read_text(encoding="utf-8") if in_file else value)
        except (OSError, ValueError) as error:
            raise UsageError(f"`{_option(name)}` {value!r} is no json object, nor a file of one: {error}") from error
        if not isinstance(found, dict):
            raise UsageError(f"`{_option(name)}` must be a json object, got {value!r}.")


def _check_optim_args(given: str | None) -> None:
    if given and any(part.count("=") != 1 for part in given.split(",")):
        raise UsageError(f"`--optim-args` must be `name=value`, several with commas between, got {given!r}.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise UsageError(f"`{_option(name)}` must be at least {least}, got {value}.")


def _require_bitsandbytes() -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise UsageError("`--load-in-4bit` needs bitsandbytes: pip install bitsandbytes.")


def _check_output(options: TrainOptions, checkpoint: str | None) -> None:
    path = Path(options.output)
    check_place("--output", options.output)
    if path.exists() and not path.is_dir():
        raise UsageError(f"`--output` must be a folder, and {options.output!r} is a file.")
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise UsageError(f"`--resume-from-checkpoint`: there is no folder {checkpoint!r}.")
    if options.resume and options.overwrite:
        raise UsageError("`--resume` goes on and `--overwrite` starts anew. Choose one.")
    if path.is_dir() and any(path.iterdir()) and not (options.resume or options.overwrite or checkpoint):
        raise UsageError(
            f"`--output` {options.output!r} is not empty. Go on with `--resume`, start anew with `--overwrite`, or "
            "name another folder."
        )


def _arguments(options: TrainOptions) -> "ARMTrainingArguments":
    """The options of the `Trainer`; those that depend on others filled in."""
    from ..training import ARMTrainingArguments

    training = dict(options.training)
    if training["learning_rate"] is None:
        training["learning_rate"] = _FULL_LEARNING_RATE if options.full else _LEARNING_RATE
    if training["per_device_train_batch_size"] is None:
        share = int(os.environ.get("WORLD_SIZE", 1)) * training["gradient_accumulation_steps"]
        training["per_device_train_batch_size"] = max(1, _PAIRS_A_STEP // share)
    if training["disable_tqdm"] is None:
        training["disable_tqdm"] = not sys.stderr.isatty()
    return ARMTrainingArguments(output_dir=options.output, **training)


def _say(arguments: "ARMTrainingArguments", text: str) -> None:
    """Print, on one process of all."""
    if arguments.process_index == 0:
        print(text, flush=True)


def _check_full(options: TrainOptions, arguments: "ARMTrainingArguments") -> None:
    """All weights can be trained where they are weights, and change where they are precise enough."""
    if not options.full:
        return
    base = _adapter_base(options.model)
    if base is not None:
        raise UsageError(
            f"`--full` trains all weights, and `--model` {options.model!r} is an adapter of {base!r}. Leave `--full` "
            "out to train the adapter further, or merge it into its base first (`merge_and_unload()` of peft)."
        )
    if options.dtype in ("bfloat16", "float16"):
        _say(
            arguments,
            f"Warning: `--full --dtype {options.dtype}` rounds most updates of {arguments.learning_rate:g} away. Use "
            "`--dtype float32`, with `--bf16` for speed.",
        )


# ---------------------------------------------------------------------- what is trained on what


def _data(options: TrainOptions, arguments: "ARMTrainingArguments") -> tuple[Any, Any]:
    """Pairs to train on, and pairs held out or None."""
    import datasets

    from ..training.preferences import HELD_OUT_SPLITS, load_preferences, split_by_prompt

    if arguments.disable_tqdm or arguments.process_index > 0:
        datasets.disable_progress_bars()

    def load(source: str, split: str | None, prefer: Sequence[str]) -> Any:
        choice: Any = {"split": split, "prefer": prefer, "skip_bad_rows": options.skip_bad_rows}
        # one process reads, and the others find what it has cached
        with arguments.main_process_first(desc="reading the data"):
            return load_preferences(source, arguments.objective, **choice)

    pairs = load(options.data, options.split, ("train",))
    if options.max_pairs is not None:
        pairs = pairs.select(range(min(options.max_pairs, len(pairs))))
    if options.eval_data is not None:
        held_out = load(options.eval_data, options.eval_split, HELD_OUT_SPLITS)
        return _apart(arguments, pairs, held_out), held_out
    if not options.eval_size:
        return pairs, None
    try:
        return split_by_prompt(pairs, options.eval_size, arguments.seed)
    except ValueError as error:
        raise UsageError(f"{error} Hold none out with `--eval-size 0`, or others with `--eval-data`.") from error


def _apart(arguments: "ARMTrainingArguments", pairs: Any, held_out: Any) -> Any:
    """The pairs whose prompts are not held out: what is said of held-out pairs is of prompts that were not seen."""
    from ..training.preferences import without_prompts_of

    left = without_prompts_of(pairs, held_out)
    if not len(left):
        raise UsageError("`--eval-data` has all prompts of `--data`, so no pair is left to train on. Name other pairs.")
    if len(left) < len(pairs):
        _say(arguments, f"Left {len(pairs) - len(left)} of {len(pairs)} pairs out: `--eval-data` has their prompts.")
    return left


def _trainer(
    options: TrainOptions, arguments: "ARMTrainingArguments", tokenizer: Any, pairs: Any, held_out: Any
) -> "ARMTrainer":
    from ..adapters import active_adapter
    from ..training import ARMTrainer

    model, peft_config = _model(options, arguments), None
    if not options.full and active_adapter(model.backbone) is None:
        peft_config = _lora(options)
    elif ignored := [name for name in map(_option, _LORA) if name in options.given]:
        why = "all weights are trained" if options.full else f"the adapter of {options.model} is trained further"
        _say(arguments, f"Without effect: {', '.join(ignored)}; {why}.")
    if options.load_in_4bit:
        model, peft_config = _quantized_with_adapter(model, peft_config), None
    if options.overwrite and arguments.should_save:
        for checkpoint in _checkpoints(options.output):
            shutil.rmtree(checkpoint)
    try:
        trainer = ARMTrainer(model, arguments, pairs, held_out, tokenizer, peft_config)
    except RuntimeError as error:
        if "install" not in str(error):  # what `--report-to` and others need
            raise
        raise UsageError(str(error)) from error
    trainer.data_source, trainer.held_out_source = options.data, options.eval_data
    return trainer


def _model(options: TrainOptions, arguments: "ARMTrainingArguments") -> Any:
    """What to start from: a plain causal LM, or a reward model to train further."""
    import torch

    from ..modeling_genarm import AutoregressiveRewardModel
    from .loading import _load

    # adapters keep the base's stored precision; weights that are trained themselves need float32
    dtype = "float32" if options.full and options.dtype == "auto" else options.dtype
    loading: dict[str, Any] = {"dtype": dtype}
    if options.load_in_4bit:
        from transformers import BitsAndBytesConfig

        compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
        quantization = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_compute_dtype=compute, **quantization
        )
        loading["device_map"] = {"": arguments.device}
    name = options.model
    return _load("--model", name, lambda: AutoregressiveRewardModel.from_pretrained(name, **loading))


def _lora(options: TrainOptions) -> Any:
    from peft import LoraConfig

    modules = [name.strip() for name in options.target_modules.split(",")]
    return LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules="all-linear" if modules == ["all-linear"] else modules,
        task_type="CAUSAL_LM",
    )


def _quantized_with_adapter(arm: Any, peft_config: Any) -> Any:
    """QLoRA (arXiv 2305.14314): the adapter is put in here, since quantised weights cannot be shared by two models."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    if peft_config is None:
        return arm
    backbone = prepare_model_for_kbit_training(arm.backbone, use_gradient_checkpointing=False)
    return get_peft_model(backbone, peft_config)


def _what_is_trained(trainer: "ARMTrainer") -> str:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in trainer.model.parameters()]
    trained, total = sum(size for size, grad in sizes if grad), sum(size for size, _ in sizes)
    return f"Training {trained:,} of {total:,} parameters on {trainer.args.world_size} process(es)."


def _checkpoints(directory: str) -> Iterator[Path]:
    path = Path(directory)
    return (entry for entry in (path.iterdir() if path.is_dir() else ()) if _CHECKPOINT.fullmatch(entry.name))


def _checkpoint(options: TrainOptions, arguments: "ARMTrainingArguments") -> bool | str | None:
    """What `Trainer.train` is to go on from."""
    if arguments.resume_from_checkpoint is not None:
        return arguments.resume_from_checkpoint
    if options.resume and not any(_checkpoints(options.output)):
        _say(arguments, f"No checkpoint in {options.output}: starting from the beginning.")
        return None
    return options.resume or None


# ---------------------------------------------------------------------- what came of it


def _report(options: TrainOptions, summary: Any, held_out: Any) -> None:
    """Held-out numbers, and the command to try next."""
    from .evaluate import rows

    if summary is not None:
        report = {"pairs": len(held_out), "dropped": 0, **summary.to_dict()}
        print("\n" + table(["held out", options.output], rows([report])))
    prompt = _short_prompt(held_out)
    command = ["genarm-hf", "generate", "--model", options.model, "--reward-model", options.output, "--alpha", "1"]
    print(f"\nSaved to {options.output}. Try it:\n\n  {shlex.join([*command, *prompt])}")


def _short_prompt(held_out: Any) -> list[str]:
    """A prompt that fits on a command line, as arguments."""
    prompts = (row["prompt"] for row in held_out or ())
    texts = (prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts)
    fitting = (text for text in texts if text.strip() and len(text) <= _LONGEST_PROMPT and text.isprintable())
    prompt = next(fitting, "Hello")
    return ["--", prompt] if prompt.startswith("-") else [prompt]
