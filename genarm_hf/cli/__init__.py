"""The `genarm-hf` command: `main(argv) -> exit status`, and one small file a subcommand.

Every subcommand is a module with `parser()` and `run(options)`; it parses, calls the library and prints.
"""

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from .parsing import UsageError

COMMANDS = {
    "demo": "train a reward model on preference pairs, here and now, and watch it guide a frozen base model",
    "train": "train a reward model on your own pairs: --model BASE --data SOURCE --objective NAME --output DIR",
    "evaluate": "compare reward models with people on held-out preference pairs: --reward-model DIR --data SOURCE",
    "generate": "guide your own model: --model DIR --reward-model DIR --alpha 0.5 'prompt', or --input FILE",
    "app": "open a page with a slider for each objective: the playground, or --model BASE --reward-model ARM",
    "compose": "write a folder that vLLM serves: --model BASE --reward-model ARM --output DIR",
    "serve": "serve it over HTTP, each request with its own alpha: DIR, or --model BASE --reward-model ARM",
    "bench": "time guided decoding on this machine",
    "reproduce": "measure the paper's claims, all of them or one: [CLAIM] [--fast]",
    "doctor": "say whether reward models fit a base, and what to type: --model BASE --reward-model ARM",
    "info": "tell what a reward model, a composition, a collection or somebody's reward models say of themselves: REPO",
    "push": "upload a reward model or a composition to the hub: DIR REPO",
    "env": "print versions, system and devices, for a bug report",
    "completion": "print a script with which your shell completes commands and options: bash, zsh, fish",
}
_INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        exit status: 0; 1 where `doctor` finds that models do not fit; 2 for bad input (one sentence on stderr, with
        `GENARM_HF_DEBUG=1` the traceback); 130 after Ctrl-C.
    """
    names: dict[str, str] = {}  # of the command's options, once they are known
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv), names)
    except SystemExit as end:  # argparse ends --help and --version so
        return int(end.code or 0)
    except KeyboardInterrupt:
        print("\nInterrupted; nothing half-written is left behind.", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone (`genarm-hf demo | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("GENARM_HF_DEBUG"):
            raise
        print(f"genarm-hf: {_as_options(_one_sentence(error), names)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("GENARM_HF_DEBUG") or not _is_memory(error):
            raise
        print(f"genarm-hf: there is not enough memory for this: {_one_sentence(error)}", file=sys.stderr)
        return 2


def _dispatch(argv: list[str], names: dict[str, str]) -> int:
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help"):
        print(_overview())
    elif command == "--version":
        from .. import __version__

        print(f"genarm-hf {__version__}")
    elif command in COMMANDS:
        module = import_module(f".{command}", __name__)
        parser = module.parser()
        names.update(parser.names())
        return module.run(parser.parse(argv[1:])) or 0
    else:
        raise UsageError(
            f"{command!r} is not a command; the commands are {', '.join(COMMANDS)} (see `genarm-hf --help`)."
        )
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: genarm-hf COMMAND [options]",
            "",
            "Test-time alignment: a small reward model guides a frozen language model, token by token.",
            "",
            "commands:",
            *lines,
            "",
            "`genarm-hf COMMAND --help` lists a command's options; `genarm-hf --version` names the version.",
        ]
    )


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out, which torch says in one kind of error for GPUs and another for CPUs."""
    phrases = ("out of memory", "can't allocate memory", "storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in phrases)


def _one_sentence(error: BaseException) -> str:
    """An error's message on one line (those of transformers run over several)."""
    return " ".join(str(error).split()) or type(error).__name__


def _as_options(said: str, names: dict[str, str]) -> str:
    """An error of the library in words of the command line.

    Args:
        said: it names arguments of Python.
        names: what the command calls them.

    Example:
        >>> _as_options("No pair fits into `max_length=3`.", {"max_length": "--max-length"})
        'No pair fits into `--max-length 3`.'
    """
    names = {"source": names.get("data") or names.get("input") or "source"} | names

    def option(argument: re.Match) -> str:
        name, value = argument.groups()
        if name not in names:
            return argument[0]
        return f"`{names[name]} {value}`" if value not in (None, "True") else f"`{names[name]}`"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", option, said)
