"""`genarm-hf completion`: a script with which a shell completes commands and options.

It is written once, by shtab, and then belongs to the shell: pressing Tab starts no Python, which would take seconds to
import what the options of `train` are made of.
"""

import argparse
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .parsing import CommandParser, UsageError

# what options and arguments call files and folders in the help
_FILES, _FOLDERS = ("FILE", "SOURCE"), ("DIR", "BASE", "ARM")
_ARGUMENTS = ("folder", "repo")


@dataclass
class CompletionOptions:
    """What may be asked for."""

    shell: str = field(init=False)


def parser() -> CommandParser:
    """The command line of `genarm-hf completion`."""
    return CommandParser(
        CompletionOptions,
        "completion",
        "Print a script that lets a shell complete commands and options. Needs `pip install 'genarm-hf[completion]'`.",
        positional=("shell", "bash, zsh, fish, tcsh or powershell"),
        usage="genarm-hf completion SHELL",
    )


def run(options: CompletionOptions) -> None:
    """Print the script."""
    try:
        import shtab
    except ImportError as error:
        raise ImportError("Completion is written by shtab: pip install 'genarm-hf[completion]'.") from error
    if options.shell not in shtab.SUPPORTED_SHELLS:
        raise UsageError(f"completion: shells are {', '.join(shtab.SUPPORTED_SHELLS)}, got {options.shell!r}.")
    print(shtab.complete(whole_parser(), options.shell))


def whole_parser() -> argparse.ArgumentParser:
    """All commands in one parser, as argparse itself would have them; our `main` reads only the one it is asked for."""
    from . import COMMANDS

    whole = argparse.ArgumentParser("genarm-hf")
    whole.add_argument("--version", action="store_true", help="name the version")
    commands = whole.add_subparsers()
    for name, summary in COMMANDS.items():
        own = import_module(f".{name}", __package__).parser()
        commands.add_parser(name, parents=[own], add_help=False, help=summary)
        for action in own._actions:
            _complete_paths(action)
    return whole


def _complete_paths(action: Any) -> None:
    """Let the shell complete names of files and folders where those are meant."""
    import shtab

    if action.metavar in _FILES:
        action.complete = shtab.FILE
    elif action.metavar in _FOLDERS or (not action.option_strings and action.dest in _ARGUMENTS):
        action.complete = shtab.DIRECTORY
