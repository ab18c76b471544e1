"""`genarm-hf generate`: guide a model of your own by reward models of your own: a prompt, or a data set of them."""

import os
import sys
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .loading import load_base, load_reward_model, look_at, quiet
from .parsing import CommandParser, UsageError, check_seed
from .text import side_by_side, table

_FOR_MANY = ("output", "split", "prompt_column", "alpha_column", "samples", "batch_size", "max_tokens_per_batch")


@dataclass
class GenerateOptions:
    """What may be asked for."""

    model: str = field(metadata={"help": "the base model: folder or hub name", "metavar": "DIR"})
    reward_model: list[str] = field(
        default_factory=list,
        metadata={"help": "a reward model: folder or hub name; may be repeated", "metavar": "DIR", "action": "append"},
    )
    alpha: list[float] = field(
        default_factory=list,
        metadata={
            "help": "guidance strength: one number for all reward models, or one for each (default: theirs, else 1)",
            "metavar": "A",
            "action": "append",
        },
    )
    max_new_tokens: int = field(default=128, metadata={"help": "tokens to generate at most", "metavar": "N"})
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "sample at this temperature; 0: take the likeliest token (default: the model's generation config)",
            "metavar": "T",
        },
    )
    top_p: float | None = field(
        default=None, metadata={"help": "sample from the likeliest tokens of this total probability", "metavar": "P"}
    )
    num_beams: int = field(default=1, metadata={"help": "beams of beam search", "metavar": "N"})
    seed: int | None = field(
        default=None, metadata={"help": "seed of sampling (default: none; with --input 0)", "metavar": "S"}
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "precision of the weights; auto: as they are stored"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, cuda:1, mps; auto: the fastest there is"})
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = field(
        default=None, metadata={"help": "spread the base over all devices of the machine"}
    )
    compare: bool = field(default=False, metadata={"help": "show what the base alone says (alpha 0) beside it"})
    show_rewards: bool = field(default=False, metadata={"help": "show the reward of each token below the text"})
    no_chat_template: bool = field(
        default=False, metadata={"help": "give the prompt as it is, even where the tokenizer has a chat template"}
    )
    input: str | None = field(
        default=None,
        metadata={
            "help": "answer a data set instead: jsonl, csv or parquet file, folder or hub name; needs --output",
            "metavar": "SOURCE",
        },
    )
    output: str | None = field(
        default=None, metadata={"help": "with --input: jsonl file of replies; run again to go on", "metavar": "FILE"}
    )
    split: str | None = field(default=None, metadata={"help": "with --input: split of the data set", "metavar": "S"})
    prompt_column: str = field(
        default="prompt", metadata={"help": "with --input: column with a text or chat messages", "metavar": "C"}
    )
    alpha_column: str = field(
        default="alpha",
        metadata={"help": "with --input: column with a row's own alpha, which goes before --alpha", "metavar": "C"},
    )
    samples: int = field(default=1, metadata={"help": "with --input: replies to each prompt", "metavar": "N"})
    batch_size: int = field(default=64, metadata={"help": "with --input: most prompts at once", "metavar": "N"})
    max_tokens_per_batch: int = field(
        default=8192, metadata={"help": "with --input: most tokens at once, new ones included", "metavar": "N"}
    )
    prompt: str | None = field(init=False, default=None)


def parser() -> CommandParser:
    """The command line of `genarm-hf generate`."""
    return CommandParser(
        GenerateOptions,
        "generate",
        "Generate with a base model guided by one or several autoregressive reward models of the same vocabulary.",
        positional=("prompt", "what to answer; - reads it from standard input; none with --input"),
    )


def run(options: GenerateOptions) -> None:
    """Load, generate, print."""
    _check(options)
    if options.input is not None:
        from .generate_job import run as run_job

        return run_job(options)
    _check_single(options)
    prompt = _read_prompt(options.prompt or "")
    with quiet():
        look_at(options.reward_model)
        base, tokenizer = load_base(options.model, options.dtype, options.device, device_map=options.device_map)
        arms = [load_reward_model(name, base, options.model, options.dtype) for name in options.reward_model]
        call = _Call(options, base, tokenizer, arms, prompt)
        output = _compare(call) if options.compare else _stream(call)
    if options.show_rewards:
        print("\n" + _reward_table(call, output))


def _check(options: GenerateOptions) -> None:
    """Everything that can be wrong before models are loaded."""
    if not options.reward_model:
        raise UsageError("`--reward-model` is missing; name at least one folder or hub name.")
    if len(options.alpha) not in (0, 1, len(options.reward_model)):
        raise UsageError(
            f"`--alpha` must be one number, or one for each of the {len(options.reward_model)} reward models; "
            f"got {len(options.alpha)}."
        )
    if not all(abs(alpha) < float("inf") for alpha in options.alpha):
        raise UsageError(f"`--alpha` must be finite, got {' '.join(map(str, options.alpha))}.")
    for name in ("max_new_tokens", "num_beams", "samples", "batch_size", "max_tokens_per_batch"):
        if getattr(options, name) < 1:
            raise UsageError(f"`--{name.replace('_', '-')}` must be at least 1, got {getattr(options, name)}.")
    if options.temperature is not None and not 0 <= options.temperature < float("inf"):
        raise UsageError(f"`--temperature` must be 0 or a positive number, got {options.temperature}.")
    check_seed("--seed", options.seed)
    if options.top_p is not None and not 0 < options.top_p <= 1:
        raise UsageError(f"`--top-p` must be above 0 and at most 1, got {options.top_p}.")
    if options.device_map is not None:
        _check_device_map(options)


def _check_device_map(options: GenerateOptions) -> None:
    if options.device != "auto":
        raise UsageError("`--device-map` spreads the base over all devices, so `--device` cannot name one.")
    if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise UsageError(
            "`--device-map` gives one process all devices, so there can be one process a machine. For several, start "
            "each by itself with its own CUDA_VISIBLE_DEVICES, RANK and WORLD_SIZE."
        )


def _check_single(options: GenerateOptions) -> None:
    defaults = {one.name: one.default for one in fields(GenerateOptions)}
    for name in _FOR_MANY:
        if getattr(options, name) != defaults[name]:
            raise UsageError(f"`--{name.replace('_', '-')}` is for data sets: it needs `--input`.")
    if options.prompt is None:
        raise UsageError(
            "generate: give a prompt, or a data set of them as `--input` (see `genarm-hf generate --help`)."
        )


def _read_prompt(prompt: str) -> str:
    text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    if not text.strip():
        raise UsageError("The prompt is empty.")
    return text


class _Call:
    """One prompt, and everything that generates from it.

    Args:
        options: how to generate.
        base: the base model.
        tokenizer: its tokenizer.
        arms: the reward models.
        prompt: text.
    """

    def __init__(self, options: GenerateOptions, base: Any, tokenizer: Any, arms: list[Any], prompt: str) -> None:
        from ..decoding.reward_models import check_base_positions

        self.options, self.base, self.tokenizer, self.arms = options, base, tokenizer, arms
        self.inputs = _encode(tokenizer, prompt, chat=not options.no_chat_template).to(base.device)
        check_base_positions(base, self.inputs["input_ids"].shape[1], options.max_new_tokens)
        templates = [arm.config.prompt_template for arm in arms]
        # a reward model that was trained on prompts in a template of its own reads this one in it too
        self.reward_inputs = [
            tokenizer(template.format(prompt=prompt), return_tensors="pt").to(base.device) if template else None
            for template in templates
        ]

    @property
    def alpha(self) -> list[float] | None:
        """What `guide()` takes; None: what the reward models ask for."""
        alpha = self.options.alpha
        return (alpha * len(self.arms) if len(alpha) == 1 else alpha) or None

    def generate(self, alpha: Any, streamer: Any = None) -> Any:
        """Guided generation, with the output of `generate()` in full."""
        from transformers import set_seed

        if self.options.seed is not None:
            set_seed(self.options.seed)
        try:
            return self._generate(alpha, streamer)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):
                raise
            raise UsageError(
                "the probabilities to sample from are no numbers: weights are broken, `--alpha` or `--temperature` is "
                "too extreme, or `--dtype` too narrow (try float32)."
            ) from error

    def _generate(self, alpha: Any, streamer: Any) -> Any:
        return self.base.generate(
            input_ids=self.inputs["input_ids"],
            attention_mask=self.inputs["attention_mask"],
            reward_models=self.arms,
            alpha=alpha,
            reward_inputs=self.reward_inputs,
            tokenizer=self.tokenizer,
            streamer=streamer,
            return_dict_in_generate=True,
            output_rewards=self.options.show_rewards,
            **sampling(self.options),
        )

    def reply_ids(self, output: Any) -> list[int]:
        """Ids of what was generated."""
        return output.sequences[0, self.inputs["input_ids"].shape[1] :].tolist()

    def reply(self, output: Any) -> str:
        """Text of what was generated."""
        return self.tokenizer.decode(self.reply_ids(output), skip_special_tokens=True).strip()


def _encode(tokenizer: Any, prompt: str, chat: bool) -> Any:
    if chat and getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    return tokenizer(prompt, return_tensors="pt")


def sampling(options: GenerateOptions) -> dict[str, Any]:
    """Arguments of generate(); what the user leaves open is left to the model's generation config."""
    arguments: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "num_beams": options.num_beams}
    if options.temperature == 0:
        return arguments | {"do_sample": False}
    if options.temperature is not None:
        arguments |= {"do_sample": True, "temperature": options.temperature}
    if options.top_p is not None:
        arguments |= {"do_sample": True, "top_p": options.top_p}
    return arguments


def _stream(call: _Call) -> Any:
    """Print tokens as they come; beam search knows its text at the end only."""
    from transformers import TextStreamer

    if call.options.num_beams > 1:
        output = call.generate(call.alpha)
        print(call.reply(output))
        return output
    streamer = TextStreamer(call.tokenizer, skip_prompt=True, skip_special_tokens=True)
    return call.generate(call.alpha, streamer)


def _compare(call: _Call) -> Any:
    """The base alone and the guided base, side by side."""
    alone = call.generate(0.0)
    guided = call.generate(call.alpha)
    alpha = "default" if call.alpha is None else ", ".join(f"{alpha:g}" for alpha in call.alpha)
    print(side_by_side(["base alone (alpha 0)", f"guided (alpha {alpha})"], [call.reply(alone), call.reply(guided)]))
    return guided


def _reward_table(call: _Call, output: Any) -> str:
    """A row per generated token with its reward under each reward model, in nats."""
    rewards = output.rewards[:, 0].tolist()
    tokens = [repr(call.tokenizer.decode([index])) for index in call.reply_ids(output)]
    rows = [[token, *(f"{reward:.3f}" for reward in column)] for token, *column in zip(tokens, *rewards, strict=True)]
    total = ["total", *(f"{sum(of_arm):.3f}" for of_arm in rewards)]
    return table(["token", *(f"log pi_{i} ({_name(arm)})" for i, arm in enumerate(call.arms, 1))], [*rows, total])


def _name(arm: Any) -> str:
    return arm.config.objective or "reward"
