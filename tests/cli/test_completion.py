"""`genarm-hf completion`: what a shell that has read the script completes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from genarm_hf.cli import COMMANDS, main

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell."""
    from shtab import complete

    from genarm_hf.cli.completion import whole_parser

    folder, parser = tmp_path_factory.mktemp("scripts"), whole_parser()
    for shell in ("bash", "zsh", "fish", "tcsh"):
        (folder / shell).write_text(complete(parser, shell))
    return folder


@pytest.fixture
def bash(scripts: Path) -> object:
    """What bash offers behind a line; the last word is the one that is being typed."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")

    def offered(line: str) -> set[str]:
        words = line.split(" ")
        code = (
            f"source {scripts / 'bash'}; COMP_WORDS=({' '.join(repr(word) for word in words)}); "
            f"COMP_CWORD={len(words) - 1}; $(complete -p genarm-hf | grep -o '_shtab[a-z_]*'); "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return {word.strip().rstrip("/") for word in done.stdout.split("\n") if word.strip()}

    return offered


def test_commands(bash: object) -> None:
    assert bash("genarm-hf gen") == {"generate"}
    assert bash("genarm-hf ").issuperset(COMMANDS)


def test_options_of_a_command(bash: object) -> None:
    assert bash("genarm-hf generate --rew") == {"--reward-model"}
    assert bash("genarm-hf train --load-in") == {"--load-in-4bit"}
    assert not bash("genarm-hf info --reward")


def test_choices_of_an_option(bash: object) -> None:
    assert bash("genarm-hf generate --dtype ") == {"auto", "float32", "bfloat16", "float16"}
    assert bash("genarm-hf demo --objective h") == {"harmless", "helpful"}


def test_folders(bash: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-file").touch()
    monkeypatch.chdir(tmp_path)
    assert bash("genarm-hf generate --model my") == {"my-model"}
    assert bash("genarm-hf info my") == {"my-model"}


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_know_commands_and_options(scripts: Path, shell: str) -> None:
    script = (scripts / shell).read_text()
    assert all(name in script for name in COMMANDS) and "reward-model" in script


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "genarm_hf.cli.completion.whole_parser", lambda: __import__("argparse").ArgumentParser("genarm-hf")
    )
    assert main(["completion", "bash"]) == 0
    assert "complete -o" in capsys.readouterr().out


def test_an_unknown_shell(capsys: pytest.CaptureFixture) -> None:
    assert main(["completion", "cmd.exe"]) == 2
    assert "shells are bash" in capsys.readouterr().err
