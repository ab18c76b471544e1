"""Places that cannot be written to are refused before anything is loaded, trained or drawn for them."""

import pytest

from genarm_hf.cli import main


@pytest.mark.parametrize(
    "argv",
    [
        ["demo", "--output", "file/x"],
        ["train", "--model", "m", "--data", "d", "--output", "file/deep/x"],
        ["evaluate", "--reward-model", "m", "--data", "d", "--output", "file/x.json"],
        ["evaluate", "--reward-model", "m", "--data", "d", "--figure", "file/x.png"],
        ["generate", "--model", "m", "--reward-model", "r", "--input", "p.jsonl", "--output", "file/x.jsonl"],
    ],
    ids=lambda argv: " ".join((argv[0], argv[-2])),
)
def test_a_file_is_no_folder_to_write_into(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(argv) == 2
    said = f"genarm-hf: `{argv[-2]}` {argv[-1]!r} would be in a folder, and 'file' is a file.\n"
    assert capsys.readouterr().err == said
