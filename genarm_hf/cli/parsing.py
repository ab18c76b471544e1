"""Command lines into dataclasses: transformers' `HfArgumentParser` with the habits of a Unix command.

Options are written with hyphens, flags take no value (where a text may follow them), an option given twice is a list,
and bad input raises [`UsageError`] instead of ending the process.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

_YES_OR_NO = "yes|no"


class UsageError(ValueError):
    """Bad input on the command line; the message is all that the user is shown."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults are shown where they say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, [], "") or action.default is False  # 0 is equal to False, and says something
        return action.help if silent else super()._get_help_string(action)


class CommandParser(HfArgumentParser):
    """Parser of one subcommand, made from the dataclass of its options.

    Args:
        options: the dataclass.
        command: the subcommand's name.
        description: what it does.
        positional: `(name, help)` of the argument without an option's name, a field of the dataclass with `init=False`;
            several such pairs for several arguments. Where that field has a default, the argument may be left out.
        usage: the first line of the help. None: all options.
    """

    def __init__(
        self,
        options: type,
        command: str,
        description: str,
        positional: tuple[str, str] | list[tuple[str, str]] | None = None,
        usage: str | None = None,
    ) -> None:
        formatter = {"formatter_class": _HelpFormatter, "allow_abbrev": False}
        self.positional = [positional] if isinstance(positional, tuple) else positional or []
        super().__init__(options, prog=f"genarm-hf {command}", description=description, usage=usage, **formatter)
        for name, said in self.positional:
            default = next(field.default for field in fields(options) if field.name == name)
            optional = {} if default is MISSING else {"nargs": "?", "default": default}
            super().add_argument(name, help=said, **optional)

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        """Add an option under its hyphenated name; flags and repeatable options do not swallow what follows them."""
        kwargs = _without_overflow(kwargs)
        if kwargs.get("const") is True and not self.positional:
            kwargs.setdefault("metavar", _YES_OR_NO)
        elif kwargs.get("const") is True:
            kwargs = {"action": "store_true", "help": kwargs.get("help")}
        elif kwargs.get("action") == "append":
            kwargs.pop("nargs", None)
        return super().add_argument(*[name for name in names if "_" not in name], **kwargs)

    def add_fields(self, title: str, fields: Iterable[Field]) -> None:
        """Add options of another dataclass, in a part of the help of their own.

        Args:
            title: of that part.
            fields: of the dataclass, with their types (and not the types' names).
        """
        group = _Hyphenated(self.add_argument_group(title))
        for field in fields:
            self._parse_dataclass_field(group, field)  # type: ignore[arg-type]

    def parse(self, argv: Sequence[str]) -> Any:
        """The options of a command line.

        Raises:
            UsageError: it is not one of this command.
        """
        return self.parse_all(argv)[0]

    def parse_all(self, argv: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """The options of a command line, and those of `add_fields` by name.

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
        for name, _ in self.positional:
            setattr(options, name, getattr(extra[0], name))
        return options, vars(extra[0]) if extra else {}

    def names(self) -> dict[str, str]:
        """What options are called on the command line, by what they are called in Python."""
        return {action.dest: action.option_strings[0] for action in self._actions if action.option_strings}

    def written_out(self, path: str) -> list[str]:
        """A yaml file with an option's name and value in each line, as arguments of a command line.

        Raises:
            UsageError: it is not there, is no such file, or names an option that this command does not have.
        """
        known = {action.dest: action for action in self._actions if action.option_strings and action.nargs != 0}
        arguments: list[str] = []
        for key, value in _read_yaml(path).items():
            action = known.get(str(key).replace("-", "_"))
            if action is None:
                close = get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f" (see `{self.prog} --help`)."
                raise UsageError(f"`--config` {path!r}: {str(key)!r} is no option of this command{hint}")
            arguments += _as_arguments(action, value)
        return arguments

    def error(self, message: str) -> NoReturn:
        """Argparse's complaints, as errors of ours."""
        raise UsageError(f"{self.prog.split()[-1]}: {message} (see `{self.prog} --help`).")


class _Hyphenated:
    """A part of the help whose options are written with hyphens too."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        """Add an option; where it says nothing else, its value is shown by its type and not by its own name again."""
        kwargs = _without_overflow(kwargs)
        if kwargs.get("const") is True:
            kwargs.setdefault("metavar", _YES_OR_NO)
        elif "choices" not in kwargs and "action" not in kwargs:
            kwargs.setdefault("metavar", getattr(kwargs.get("type"), "__name__", "value").upper())
        return self._group.add_argument(*[name for name in names if "_" not in name], **kwargs)


def whole(text: str) -> int:
    """A whole number that fits into the 64 bits of a machine's: larger ones would fail deep inside of torch.

    Raises:
        ValueError: it is none.
    """
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number of at most 64 bits, got {text:.40}")
    return number


whole.__name__ = "int"  # what argparse, and the help, call the type


def _without_overflow(kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs | {"type": whole} if kwargs.get("type") is int else kwargs


def _read_yaml(path: str) -> dict[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"`--config` {path!r} could not be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"`--config` {path!r} must hold lines like `learning_rate: 1e-4`.")
    return content


def _as_arguments(action: argparse.Action, value: Any) -> list[str]:
    """An option with its value, as one would type it."""
    name = action.option_strings[0]
    if value is None:
        return []
    if isinstance(value, list) and action.nargs in ("+", "*"):
        return [name, *map(str, value)]
    if isinstance(value, (list, dict)):
        return [f"{name}={json.dumps(value)}"]
    return [f"{name}={str(value).lower() if isinstance(value, bool) else value}"]


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


def check_seed(option: str, seed: int | None) -> None:
    """Refuse what numpy does not take as a seed.

    Raises:
        UsageError: as said.
    """
    if seed is not None and not 0 <= seed < 2**32:
        raise UsageError(f"`{option}` must be at least 0 and below 2**32, got {seed}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
