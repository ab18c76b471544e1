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
    rows = re.findall(r"^\| `(--[a-z-]+)[^`]*` \| ([^|]+) \|", section(command), re.MULTILINE)
    return {option: default.strip().strip("`") for option, default in rows}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_options_are_documented_and_no_others(command):
    actions = import_module(f"genarm_hf.cli.{command}").parser()._actions
    options = {name for action in actions for name in action.option_strings} - {"-h", "--help"}
    assert documented(command).keys() == options


@pytest.mark.parametrize("command", list(COMMANDS))
def test_defaults_are_those_of_the_code(command):
    for field in fields(import_module(f"genarm_hf.cli.{command}").parser().dataclass_types[0]):
        shown = documented(command).get("--" + field.name.replace("_", "-"))
        if field.init and field.default not in (MISSING, None, False, ""):
            assert shown == (f"{field.default:g}" if isinstance(field.default, float) else str(field.default))
        elif field.default is False:
            assert shown == "off"
