"""`genarm-hf serve`: check a composition, then hand it to vLLM's server, or to that of transformers without vLLM."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .compose import ComposeOptions, summary, write_folder
from .parsing import CommandParser, UsageError

if TYPE_CHECKING:
    from ..integrations.vllm.composition import Composition

ENGINES = ("vllm", "transformers")


@dataclass
class ServeOptions:
    """What may be asked for."""

    model: str = field(
        default="", metadata={"help": "instead of DIR: a base model, folder or hub name", "metavar": "BASE"}
    )
    reward_model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "with --model: a reward model; may be repeated",
            "metavar": "ARM",
            "action": "append",
        },
    )
    alpha: list[float] = field(
        default_factory=list,
        metadata={
            "help": "with --model: guidance strength of requests that name none, as in `genarm-hf compose`",
            "metavar": "A",
            "action": "append",
        },
    )
    engine: str = field(
        default="", metadata={"help": "vllm or transformers; default: vllm where it is installed", "metavar": "E"}
    )
    folder: str = field(default="", init=False)
    passed_on: list[str] = field(default_factory=list, init=False)


class _Parser(CommandParser):
    """What follows `--` is the engine's."""

    def parse(self, argv: Sequence[str]) -> ServeOptions:
        end = list(argv).index("--") if "--" in argv else len(argv)
        options = super().parse(argv[:end])
        options.passed_on = list(argv[end + 1 :])
        return options

    def error(self, message: str) -> NoReturn:
        """As in [`CommandParser`]; an option that is not ours is most likely the engine's."""
        is_unknown = message.startswith("unrecognized arguments: -")
        hint = "; what is the engine's goes behind `--`, as in `genarm-hf serve DIR -- --port 8000`"
        super().error(message + hint if is_unknown else message)


def parser() -> CommandParser:
    """The command line of `genarm-hf serve`."""
    return _Parser(
        ServeOptions,
        "serve",
        "Serve a base and the reward models that guide it over HTTP, in OpenAI's protocol. Each request may name its "
        "own alpha, `vllm_xargs: {alpha: 0.5}`. What follows `--` goes to the engine as it is.",
        positional=("folder", "what `genarm-hf compose` wrote, or its name on the hub"),
        usage="genarm-hf serve (DIR | --model BASE --reward-model ARM [--alpha A]) [--engine E] [-- engine options]",
    )


def run(options: ServeOptions) -> None:
    """Check everything that can be checked without loading weights, then become the server."""
    engine = _engine(options)
    _check(options, engine)
    folder = _find(options.folder) if options.folder else _cache_folder(options)
    if not options.folder:
        write_folder(ComposeOptions(options.model, str(folder), options.reward_model, options.alpha), folder)
    composition = _read(folder)
    name = options.model or ("" if Path(options.folder).is_dir() else options.folder)
    print(summary(composition, name or str(folder)), flush=True)
    if engine == "vllm":
        names = ["--served-model-name", name] if name else []
        _become_vllm([sys.executable, "-m", *_vllm_serve(folder), *names, *options.passed_on])
    else:
        from ..integrations.transformers_serve import serve

        serve(composition, options.passed_on)


def _engine(options: ServeOptions) -> str:
    if options.engine and options.engine not in ENGINES:
        raise UsageError(f"`--engine` must be one of {', '.join(ENGINES)}; got {options.engine!r}.")
    installed = find_spec("vllm") is not None
    if options.engine == "vllm" and not installed:
        raise UsageError("vLLM is not installed: pip install 'genarm-hf[vllm]'. Or say `--engine transformers`.")
    return options.engine or ("vllm" if installed else "transformers")


def _check(options: ServeOptions, engine: str) -> None:
    """Everything that can be wrong before models are looked at."""
    if bool(options.folder) == bool(options.model):
        raise UsageError("name what to serve: a folder that `genarm-hf compose` wrote, or `--model BASE`, one of them.")
    if options.folder and (options.reward_model or options.alpha):
        raise UsageError(
            f"`--reward-model` and `--alpha` belong to `--model`; {options.folder!r} has its own. Write another "
            "folder with `genarm-hf compose`, or name alpha in requests."
        )
    _check_passed_on(options.passed_on, engine)
    if engine == "vllm":
        from ..integrations.vllm.versions import check_plugin, check_version

        check_version()
        check_plugin()
    else:
        from ..integrations.transformers_serve import check_installed

        check_installed()


def _check_passed_on(passed_on: list[str], engine: str) -> None:
    names = {word.split("=")[0].replace("_", "-") for word in passed_on if word.startswith("--")}
    if "--model" in names or (passed_on and not passed_on[0].startswith("-")):
        raise UsageError("what follows `--` names another model, which would be served unguided; leave it out.")
    if engine == "transformers" and "--continuous-batching" in names:
        raise UsageError("`--continuous-batching` of `transformers serve` has no guidance; leave it out, or use vLLM.")


def _find(name: str) -> Path:
    """A composition's folder; one on the hub is downloaded, which is a few small files."""
    from ..loading import whole_downloads
    from ..model_card import is_path

    if is_path(name) or "/" not in name:
        return Path(name)
    from huggingface_hub import snapshot_download

    with whole_downloads(name):
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.txt", "*.model"]))


def _cache_folder(options: ServeOptions) -> Path:
    """Where the composition of these options is kept: a few small files, written anew at every start."""
    from huggingface_hub.constants import HF_HOME

    asked = json.dumps([os.getcwd(), options.model, options.reward_model, options.alpha])
    return Path(HF_HOME) / "genarm-hf" / "composed" / hashlib.sha256(asked.encode()).hexdigest()[:16]


def _read(folder: Path) -> "Composition":
    from transformers import PreTrainedConfig

    from ..integrations.vllm.composition import check_parts, is_composition, read
    from ..loading import readable

    if not is_composition(folder):
        raise UsageError(f"{str(folder)!r} is not a folder that `genarm-hf compose` wrote.")
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = {key: value for key, value in fields.items() if key.startswith("genarm_") or key == "architectures"}
    with readable(f"config.json of {str(folder)!r}"):
        config = PreTrainedConfig(**named)
    composition = read(config)
    check_parts(composition.base, composition.arms)
    return composition


def _vllm_serve(folder: Path) -> list[str]:
    """`vllm serve` as a module; vLLM's build for CPUs has no such command, but the server that it starts."""
    if any(distribution.name == "vllm" for distribution in distributions(name="vllm")):
        return ["vllm.entrypoints.cli.main", "serve", str(folder)]
    return ["vllm.entrypoints.openai.api_server", "--model", str(folder)]


def _become_vllm(command: list[str]) -> None:
    """This process ends and the server takes its place, with its signals and its exit status."""
    os.execv(command[0], command)
