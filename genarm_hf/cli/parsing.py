"""Command lines into dataclasses: transformers' `HfArgumentParser` with the habits of a Unix command.

Options are written with hyphens, flags take no value, an option given twice is a list, and bad input raises
[`UsageError`] instead of ending the process.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from transformers import HfArgumentParser


class UsageError(ValueError):
    """Bad input on the command line; the message is all that the user is shown."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults are shown where they say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, [], False) else super()._get_help_string(action)


class CommandParser(HfArgumentParser):
    """Parser of one subcommand, made from the dataclass of its options.

    Args:
        options: the dataclass.
        command: the subcommand's name.
        description: what it does.
        positional: `(name, help)` of the argument without an option's name, a field of the dataclass with `init=False`.
    """

    def __init__(
        self, options: type, command: str, description: str, positional: tuple[str, str] | None = None
    ) -> None:
        formatter = {"formatter_class": _HelpFormatter, "allow_abbrev": False}
        super().__init__(options, prog=f"genarm-hf {command}", description=description, **formatter)
        self.positional = positional
        if positional is not None:
            super().add_argument(positional[0], help=positional[1])

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        """Add an option under its hyphenated name; flags and repeatable options do not swallow what follows them."""
        if kwargs.get("const") is True:
            kwargs = {"action": "store_true", "help": kwargs.get("help")}
        elif kwargs.get("action") == "append":
            kwargs.pop("nargs", None)
        return super().add_argument(*[name for name in names if "_" not in name], **kwargs)

    def parse(self, argv: Sequence[str]) -> Any:
        """The options of a command line.

        Raises:
            UsageError: it is not one of this command.
        """
        for action in self._actions:
            if isinstance(action, argparse._AppendAction) and action.type is float:
                argv = spread_numbers(argv, action.option_strings[0])
        options, *extra, unknown = self.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        if self.positional is not None:
            setattr(options, self.positional[0], getattr(extra[0], self.positional[0]))
        return options

    def error(self, message: str) -> NoReturn:
        """Argparse's complaints, as errors of ours."""
        raise UsageError(f"{self.prog.split()[-1]}: {message} (see `{self.prog} --help`).")


def spread_numbers(argv: Sequence[str], name: str) -> list[str]:
    """Write an option of several numbers out, so that the list ends at the first thing that is none.

    Example:
        >>> spread_numbers(["--alpha", "0.5", "-0.2", "Hello"], "--alpha")
        ['--alpha=0.5', '--alpha=-0.2', 'Hello']
    """
    spread: list[str] = []
    reading = False
    for position, token in enumerate(argv):
        if token == "--":
            return [*spread, *argv[position:]]
        if reading and _is_number(token):
            spread.append(f"{name}={token}")
            continue
        reading = token == name and position + 1 < len(argv) and _is_number(argv[position + 1])
        if not reading:
            spread.append(token)
    return spread


def parse_numbers(name: str, text: str) -> list[float]:
    """The numbers of a comma-separated list.

    Raises:
        UsageError: there are none, or something else is among them.

    Example:
        >>> parse_numbers("--alphas", "0,0.5,1")
        [0.0, 0.5, 1.0]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_number, parts)):
        raise UsageError(f"`{name}` must be numbers with commas between them, such as 0,0.5,1; got {text!r}.")
    return [float(part) for part in parts]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
