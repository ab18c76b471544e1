"""The command as a whole: help, version, exit statuses, one sentence for bad input."""

import pytest
import torch

import genarm_hf
from genarm_hf import cli
from genarm_hf.cli import COMMANDS, main


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_on_a_line(capsys, argv):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(any(line.split()[:1] == [name] for line in out.splitlines()) for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genarm-hf {genarm_hf.__version__}\n"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"usage: genarm-hf {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dance"], f"'dance' is not a command; the commands are {', '.join(COMMANDS)}"),
        (["demo", "--objective", "rude"], "invalid choice: 'rude'"),
        (["demo", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["demo", "--pairs", "many"], "argument --pairs"),
        (["demo", "--pairs", "0"], "`--pairs` must be at least 1, got 0"),
        (["demo", "--prompts", "1"], "`--prompts` must be at least 2"),
        (["demo", "--alphas", "0,x"], "`--alphas` must be numbers with commas between them"),
        (["demo", "--alphas", "nan"], "`--alphas` must be finite"),
        (["demo", "--learning-rate", "-1"], "`--learning-rate` must be a positive number"),
        (["demo", "--seed", "-1"], "`--seed` must be at least 0 and below 2**32, got -1"),
        (["demo", "--pairs", "9" * 30], "argument --pairs: must be a whole number of at most 64 bits, got 999"),
        (["bench", "decode", "--threads", "100000"], "`--threads` must be at most 1024, got 100000"),
        (["bench", "decode", "--device", "abacus"], "`--device` must name a device of this machine"),
        (["generate"], "required: --model"),
        (["generate", "--model", "m", "text"], "`--reward-model` is missing"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, argv, said):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("genarm-hf: ") and err.count("\n") == 1


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("GENARM_HF_DEBUG", "1")
    with pytest.raises(cli.UsageError):
        main(["dance"])


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (OSError("no\n  space"), 2)])
def test_errors_of_commands(capsys, monkeypatch, error, status):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main([]) == status
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert status == 130 or err == "genarm-hf: no space\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out(capsys, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("genarm-hf: there is not enough memory for this: ") and err.count("\n") == 1


def test_mistakes_of_ours_are_not_hidden(monkeypatch):
    for kind in (AttributeError, RuntimeError):

        def fail(*_, kind=kind):
            raise kind("a mistake")

        monkeypatch.setattr(cli, "_dispatch", fail)
        with pytest.raises(kind):
            main([])


def test_a_file_is_not_looked_for_on_the_hub(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    assert main(["info", "notes.txt"]) == 2
    assert "'notes.txt' is not a directory" in capsys.readouterr().err
