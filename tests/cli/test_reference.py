"""docs/reference/cli.md knows every option of every command, with its default."""

import re
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

import pytest

from genarm_hf.cli import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def section(command: str) -> str:
    return re.split(r"^## ", PAGE.split(f"## genarm-hf {command}\n")[1], flags=re.MULTILINE)[0]


def documented(command: str) -> dict[str, str]:
    """Option to default, from the table of a command."""
    rows = re.findall(r"^\| `(--[a-z0-9-]+)[^`]*` \| ([^|]+) \|", section(command), re.MULTILINE)
    return {option: default.strip().strip("`") for option, default in rows}


def options(command: str) -> tuple[set[str], set[str]]:
    """Options of a command, and those that it takes over from transformers, which may be left out."""
    parser = import_module(f"genarm_hf.cli.{command}").parser()
    names = {name: action for action in parser._actions for name in action.option_strings}
    taken_over = {id(action) for group in parser._action_groups[2:] for action in group._group_actions}
    return (
        {name for name, action in names.items() if id(action) not in taken_over} - {"-h", "--help"},
        {name for name, action in names.items() if id(action) in taken_over},
    )


@pytest.mark.parametrize("command", list(COMMANDS))
def test_options_are_documented_and_no_others(command):
    own, taken_over = options(command)
    assert own <= documented(command).keys() <= own | taken_over


def test_defaults_of_options_taken_over_are_those_of_the_code():
    parser, shown = import_module("genarm_hf.cli.train").parser(), documented("train")
    for name in ("--beta", "--lr-scheduler-type", "--num-train-epochs", "--max-tokens-per-batch", "--seed"):
        default = next(action.default for action in parser._actions if name in action.option_strings)
        assert shown[name] == (f"{default:g}" if isinstance(default, float) else str(default)), name


@pytest.mark.parametrize("command", list(COMMANDS))
def test_defaults_are_those_of_the_code(command):
    for field in fields(import_module(f"genarm_hf.cli.{command}").parser().dataclass_types[0]):
        shown = documented(command).get("--" + field.name.replace("_", "-"))
        if field.init and field.default not in (MISSING, None, False, ""):
            assert shown == (f"{field.default:g}" if isinstance(field.default, float) else str(field.default))
        elif field.default is False:
            assert shown == "off"
