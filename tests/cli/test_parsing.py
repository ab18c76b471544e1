"""Command lines, and what they become."""

from dataclasses import dataclass, field

import pytest

from genarm_hf.cli.parsing import CommandParser, UsageError, parse_numbers, spread_numbers


@dataclass
class Options:
    model: str = field(metadata={"help": "a model"})
    strengths: list[float] = field(default_factory=list, metadata={"help": "numbers", "action": "append"})
    names: list[str] = field(default_factory=list, metadata={"help": "names", "action": "append"})
    be_loud: bool = field(default=False, metadata={"help": "a flag"})
    some_number: int | None = field(default=None, metadata={"help": "a number"})
    seed: int = field(default=0, metadata={"help": "a seed"})
    folder: str = field(default="", metadata={"help": "a folder"})
    text: str = field(init=False)


def parse(line: str) -> Options:
    parser = CommandParser(Options, "test", "A test.", positional=("text", "a text"))
    return parser.parse(line.split())


def test_options_are_written_with_hyphens():
    options = parse("--model m --be-loud --some-number 3 Hello")
    assert (options.be_loud, options.some_number, options.text) == (True, 3, "Hello")
    with pytest.raises(UsageError, match="unrecognized"):
        parse("--model m --be_loud Hello")


@pytest.mark.parametrize(
    "line",
    [
        "--model m --strengths 0.5 -0.2 Hello",
        "--model m --strengths 0.5 --strengths -0.2 Hello",
        "Hello --strengths 0.5 -0.2 --model m",
        "--strengths 0.5 --model m --strengths=-0.2 -- Hello",
    ],
)
def test_lists_of_numbers_end_where_numbers_end(line):
    options = parse(line)
    assert (options.strengths, options.text) == ([0.5, -0.2], "Hello")


def test_repeated_options_are_lists_that_do_not_swallow_the_text():
    options = parse("--model m --names a --names b Hello")
    assert (options.names, options.text) == (["a", "b"], "Hello")
    assert parse("--model m Hello").names == []


def test_flags_do_not_swallow_the_text():
    assert parse("--model m --be-loud true").text == "true"


def test_help_shows_the_defaults_that_say_something():
    parser = CommandParser(Options, "test", "A test.", positional=("text", "a text"))
    said = " ".join(parser.format_help().split())
    assert "a seed (default: 0)" in said and said.count("(default:") == 1


def test_options_are_not_abbreviated():
    with pytest.raises(UsageError):
        parse("--mod m Hello")


def test_a_list_without_numbers_is_refused():
    with pytest.raises(UsageError, match="strengths"):
        parse("--model m --strengths Hello")


def test_numbers_behind_a_double_dash_are_text():
    assert spread_numbers(["--a", "1", "--", "2"], "--a") == ["--a=1", "--", "2"]


def test_numbers_in_scientific_notation():
    assert spread_numbers(["--a", "-1e-1", "x"], "--a") == ["--a=-1e-1", "x"]


@pytest.mark.parametrize("text", ["", "1,,2", "1;2", "one"])
def test_what_is_no_list_of_numbers(text):
    with pytest.raises(UsageError, match="`--alphas` must be numbers"):
        parse_numbers("--alphas", text)
