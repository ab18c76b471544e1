"""`genarm-hf app`: a page with a slider for each objective, on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .loading import quiet
from .parsing import CommandParser, UsageError

if TYPE_CHECKING:
    from ..app.ensemble import Ensemble


@dataclass
class AppOptions:
    """What may be asked for."""

    model: str = field(
        default="",
        metadata={"help": "the base model: folder or hub name (default: the playground's)", "metavar": "BASE"},
    )
    reward_model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "with --model: a reward model, which gets a slider; may be repeated",
            "metavar": "ARM",
            "action": "append",
        },
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "precision of the weights; auto: as they are stored"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, cuda:1, mps; auto: the fastest there is"})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "address to listen at; 0.0.0.0: other machines may open the page", "metavar": "H"},
    )
    port: int = field(default=7860, metadata={"help": "port to listen at", "metavar": "P"})
    pairs: int = field(
        default=320,
        metadata={"help": "preference pairs that each of the playground's reward models learns from", "metavar": "N"},
    )
    samples: int = field(
        default=16, metadata={"help": "replies that each setting of the picture is measured on", "metavar": "N"}
    )
    fixed: bool = field(default=False, metadata={"help": "visitors may not load other models"})


def parser() -> CommandParser:
    """The command line of `genarm-hf app`."""
    return CommandParser(
        AppOptions,
        "app",
        "Open a page on this machine: a slider for each objective, replies side by side as they are written, what each "
        "word earned, and the trade-off. Without --model: the playground, whose reward models are trained once.",
    )


def run(options: AppOptions) -> None:
    """Load the models, open the page, and stay until Ctrl-C."""
    _check(options)
    from ..app.page import gradio, serve

    gradio()  # what is missing is said before models are loaded
    ensemble = _open(options)
    print(f"Open http://{options.host}:{options.port} in a browser; Ctrl-C ends.", flush=True)
    with quiet():
        serve(
            ensemble,
            None if options.fixed else lambda base, arms: _load(options, base, arms),
            options.samples,
            server_name=options.host,
            server_port=options.port,
            quiet=True,
        )


def _check(options: AppOptions) -> None:
    """Everything that can be wrong before models are loaded."""
    if bool(options.model) != bool(options.reward_model):
        raise UsageError("`--model` and `--reward-model` belong together; leave both out for the playground.")
    if not 1 <= options.port <= 65535:
        raise UsageError(f"`--port` must be between 1 and 65535, got {options.port}.")
    for name, least in (("pairs", 1), ("samples", 2)):
        if getattr(options, name) < least:
            raise UsageError(f"`--{name}` must be at least {least}, got {getattr(options, name)}.")


def _open(options: AppOptions) -> "Ensemble":
    from ..app.playground import open_playground

    if options.model:
        return _load(options, options.model, options.reward_model)
    with quiet():
        return open_playground(pairs=options.pairs, say=lambda text: print(text, flush=True))


def _load(options: AppOptions, base: str, arms: Sequence[str]) -> "Ensemble":
    from ..app.ensemble import load

    return load(base, arms, options.dtype, options.device)
