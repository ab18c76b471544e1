"""Random command lines of every command: a result, or one clear sentence on standard error."""

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from genarm_hf import cli

from . import material
from .clear import SPEAKERS, TRAINING_SPEAKERS, unclear

# of all examples of `make fuzz` (GENARM_HF_FUZZ=2000), those of each command
SHARES = {
    "generate": 0.12,
    "doctor": 0.09,
    "train": 0.07,
    "evaluate": 0.07,
    "compose": 0.05,
    "info": 0.04,
    "serve": 0.03,
    "push": 0.03,
    "bench": 0.03,
    "reproduce": 0.015,
    "app": 0.01,
    "demo": 0.01,
    "env": 0.0025,
    "completion": 0.0025,
}
EXAMPLES = int(os.environ.get("GENARM_HF_FUZZ", "60"))
_LONGEST = 10  # seconds of computation of an example; whatever still runs is no error
_MOST_MEMORY = 4 * 2**30  # bytes of addresses that an example may take, beside those that torch has reserved
_BAR = re.compile(r"\r|[\w?]/s\b|s/it|\d+%\|")

ODD = ["-", "--", "x", "nan", "inf", "-inf", "-1", "0", "1e400", "10**9", "1" * 40, "0x10", "None", "[]"]
ODD += ["{", "{}", "a,b", ",", "1,", ".", "..", "~", "/proc", "/proc/no/such", "./gone", "a/b", "a/b/c", "w5 w6"]
ODD += ["org/name@main", "--model", "-h", "true", "ü\u0301\u202e", "\udcff", "%s", "{prompt}", "x" * 300, " ", ""]
# numbers that parse, and are nevertheless hardly meant
NUMBERS = {
    "int": ["-1", "0", "1", "2", "3", "7", str(2**31), str(2**32), str(2**63 - 1), str(10**30)],
    "float": ["-1", "0", "1", "0.5", "1e-320", "1e30", "1e39", "1e308", "nan", "inf", "-inf"],
}
HOSTILE = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_characters="\0/", exclude_categories=()), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)
GOOD_MODELS, GOOD_ARMS = ["base", "base", "short"], ["arm", "arm", "lora", "base", "short"]
FOLDERS = [*GOOD_MODELS, *GOOD_ARMS, "wide", "t5", "empty-folder", "pairs.jsonl"]
FOLDERS += [f"bad-{name}" for name in material.DAMAGES]
FILES = ["pairs.jsonl", "pairs.csv", "one.jsonl", "torn.jsonl", "other.jsonl", "numbers.jsonl", "list.json"]
FILES += ["nothing.jsonl", "data.parquet", "pairs.jsonl.gz", "torn.jsonl.gz", "latin.jsonl", "base", "prompts.txt"]
YAML = ["good.yaml", "broken.yaml", "list.yaml", "unknown.yaml", "wrong.yaml", "latin.yaml", "base", "pairs.jsonl"]


def _mostly(plain: list[str], all_of: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(plain), st.sampled_from(plain), st.sampled_from(all_of)).map("@{}".format)


# a good folder with one field of one of its json files changed: the name, which field, and to what
CHANGED = st.builds(
    "@~{}:{}:{}".format,
    st.sampled_from(["base", "arm", "lora"]),
    st.integers(0, 400),
    st.integers(0, len(material.WRONG_VALUES) - 1),
)
MODEL = st.one_of(_mostly(GOOD_MODELS, FOLDERS), CHANGED)
ARM = st.one_of(_mostly(GOOD_ARMS, FOLDERS), CHANGED)
DATA, CONFIG = _mostly(FILES[:2], FILES), _mostly(YAML[:1], YAML)
OUTPUT = st.sampled_from(["out", "out", "deep/er", "file", "folder", "out.json", "out.png", "folder/out.svg"])
NUMBER = st.sampled_from(["1", "2", "0.5", "0.1", "0", "-1", "3"])
PROMPT = st.sampled_from(["w5 w6 w7", "-", "hello", "w5 " * 20])
GUIDED = [("--model", MODEL), ("--reward-model", ARM)]
CPU = ("--device", st.just("cpu"))
TRAINING = [("--max-steps", st.just("1")), ("--use-cpu", st.just("true"))]
# what command lines begin with, one of several for some, before an option is left out or replaced and others are added
LINES: dict[str, list[list[tuple[str, st.SearchStrategy[str]]]]] = {
    "generate": [
        [*GUIDED, ("--alpha", NUMBER), ("--max-new-tokens", st.just("3")), CPU, ("", PROMPT)],
        [*GUIDED, ("--input", DATA), ("--output", OUTPUT), ("--max-new-tokens", st.just("3")), CPU],
    ],
    "doctor": [GUIDED],
    "train": [[("--model", MODEL), ("--data", DATA), ("--output", OUTPUT), *TRAINING]],
    "evaluate": [
        [("--data", DATA), ("--reward-model", ARM), CPU],
        [("--data", DATA), ("--tuned-model", MODEL), ("--reference-model", MODEL), CPU],
    ],
    "compose": [[*GUIDED, ("--output", OUTPUT)]],
    "app": [GUIDED],
    "serve": [[*GUIDED, ("--engine", st.sampled_from(["transformers", "vllm"]))]],
    "info": [[("", ARM)]],
    "push": [[("", ARM), ("", st.just("org/name"))]],
    "bench": [[("", st.sampled_from(["decode", "shared", "speculative", "scaling", "train", "preferences"]))]],
    "reproduce": [[("", st.sampled_from(["report", "lab", "all", "credit"])), ("--output", OUTPUT)]],
    "demo": [[("--output", OUTPUT)]],
    "env": [[]],
    "completion": [[("", st.sampled_from(["bash", "fish", "x"]))]],
}
VALUES = {"model": MODEL, "tuned_model": MODEL, "reference_model": MODEL, "reward_model": ARM, "folder": ARM}
VALUES |= {"data": DATA, "eval_data": DATA, "texts": DATA, "input": DATA, "config": CONFIG}
VALUES |= {"output": OUTPUT, "figure": OUTPUT}
# these start services, change the process for good, or run until somebody stops them
LEFT_OUT = {"full_determinism", "help", "log_level", "log_level_replica", "report_to", "dataset_num_proc"}
LEFT_OUT |= {"dataloader_num_workers", "num_train_epochs", "tpu_num_cores", "debug", "trackio_space_id", "logging_dir"}
LEFT_OUT |= {"torch_compile", "torch_compile_backend", "torch_compile_mode"}


def _value(action: Any) -> st.SearchStrategy[str]:
    """What an option might well be given."""
    if action.dest in VALUES:
        return VALUES[action.dest]
    if action.choices:
        return st.sampled_from([str(choice) for choice in action.choices])
    if getattr(action.type, "__name__", "") in NUMBERS:
        return st.sampled_from(NUMBERS[action.type.__name__])
    if getattr(action.type, "__name__", "") == "string_to_bool":
        return st.sampled_from(["true", "false"])
    return st.one_of(NUMBER, st.sampled_from(["true", "false", "x", "1,2", "cpu", "{}", '{"a": 1}']))


@st.composite
def command_lines(draw: st.DrawFn, command: str) -> list[str]:
    """Words after the command; `@name` is something of the material.

    One word at most is from anywhere: with more, nearly all lines would end where they are parsed.
    """
    actions = [action for action in _actions(command) if action.dest not in LEFT_OUT]
    options = list(draw(st.sampled_from(LINES[command])))
    if options and draw(st.integers(0, 4)) == 4:
        del options[draw(st.integers(0, len(options) - 1))]
    for action in draw(st.lists(st.sampled_from(actions), max_size=3)) if actions else []:
        name = action.option_strings[0] if action.option_strings else ""
        options.append((name, st.just("") if action.nargs == 0 else _value(action)))
    hostile = draw(st.integers(0, 2 * len(options))) - len(options) - 1
    words: list[str] = []
    for place, (name, value) in enumerate(options):
        given_value = draw(HOSTILE if place == hostile else value)
        words += [name] * bool(name) + ([given_value] if given_value or not name else [])
    return words


def _actions(command: str) -> list[Any]:
    return import_module(f"genarm_hf.cli.{command}").parser()._actions


def place(word: str, folder: Path, scratch: Path) -> str:
    """A word of a command line, with the path of what it names in the material."""
    if not word.startswith("@"):
        return word
    if not word.startswith("@~"):
        return str(folder / word[1:])
    name, which, value = word[2:].split(":")
    fields = material.fields_of(folder / name)
    file, key = fields[int(which) % len(fields)]
    copy = scratch / f"{name} with {file} {key} {value}"
    if not copy.exists():
        shutil.copytree(folder / name, copy)
        material.set_field(file, key, material.WRONG_VALUES[int(value)])(copy)
    return str(copy)


class Runs(BaseException):
    """A command got through all its checks, and would now do what takes minutes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    material.build(folder)
    return folder


@pytest.fixture
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would take minutes, or never end, stops where it would begin."""

    def runs(*_: Any, **__: Any) -> None:
        raise Runs

    for module, name in [
        ("app.page", "serve"),
        ("app.playground", "open_playground"),
        ("cli.demo", "_tell"),
        ("cli.reproduce", "_reproduce_all"),
        ("cli.reproduce", "_pretrain"),
        ("cli.serve", "_become_vllm"),
        ("integrations.transformers_serve", "serve"),
        ("benchmarks.preferences", "bench_preferences"),
        ("benchmarks.preferences", "small_language_model"),
        *((f"benchmarks.{name}", f"bench_{name}") for name in ("decode", "shared", "speculative", "scaling", "train")),
    ]:
        monkeypatch.setattr(f"genarm_hf.{module}.{name}", runs)
    monkeypatch.setattr("genarm_hf.integrations.transformers_serve.check_installed", lambda: None)
    monkeypatch.setattr("genarm_hf.app.page.gradio", lambda: None)  # takes long to import, and longer to serve


@contextlib.contextmanager
def _workplace() -> Iterator[None]:
    """A folder to be in, with a file and a folder in it; whatever is written goes with it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        inner = Path(scratch, "a", "b")
        (inner / "folder").mkdir(parents=True)
        (inner / "file").write_text("text")
        (inner / "folder" / "kept").write_text("text")
        os.chdir(inner)
        try:
            yield
        finally:
            os.chdir(before)


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    """Huge numbers shall fail to get memory, and not get all of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MOST_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Runs

    # of this process's own time, so that the rest of a busy machine decides nothing
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What is wrong with how a command line ended; None where nothing is."""
    shown: list[BaseException] = []
    one_sentence: Callable[[BaseException], str] = cli._one_sentence
    monkeypatch.setattr(cli, "_one_sentence", lambda error: shown.append(error) or one_sentence(error))
    monkeypatch.setattr(sys, "stdin", io.StringIO("w5 w6 w7\n"))
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            _workplace(),
            _time_limit(),
            _memory_limit(),
        ):
            status = cli.main(argv)
    except Runs:
        return None
    except BaseException:
        return f"a traceback:\n{traceback.format_exc()}"
    return _judge(argv[0], status, err.getvalue(), shown)


def _judge(command: str, status: int, err: str, shown: list[BaseException]) -> str | None:
    if status == 0 or (status == 1 and command == "doctor"):
        return None if not shown and "Traceback" not in err else f"status {status}, and yet:\n{err}"
    lines = [line for line in err.splitlines() if line.strip() and not _BAR.search(line)]
    if status != 2 or len(lines) != 1 or not lines[0].startswith("genarm-hf: ") or len(shown) != 1:
        return f"status {status}, which is not one sentence:\n{err}"
    if cli._is_memory(shown[0]):
        return None  # the command says so in its own words
    reason = unclear(shown[0], TRAINING_SPEAKERS if command == "train" else SPEAKERS)
    if reason is None:
        return None
    return f"{reason}\nshown as: {lines[0]}\n{''.join(traceback.format_exception(shown[0]))[-3000:]}"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_a_result_or_one_sentence(command: str, folder: Path, harmless: None, tmp_path: Path) -> None:
    @settings(
        max_examples=max(int(EXAMPLES * SHARES[command]), 2),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines(command))
    def check(words: list[str]) -> None:
        argv = [command, *(place(word, folder, tmp_path) for word in words)]
        note(repr(argv))
        with pytest.MonkeyPatch.context() as monkeypatch:
            problem = run(argv, monkeypatch)
        assert problem is None, problem

    check()
