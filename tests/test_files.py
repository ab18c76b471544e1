"""Results appear whole or not at all."""

import os
import threading

import pytest

from genarm_hf.files import written_whole


def test_files_and_folders_appear_when_complete(tmp_path):
    with written_whole(tmp_path / "new" / "file.txt") as draft:
        draft.write_text("text")
        assert not (tmp_path / "new" / "file.txt").exists()
    assert (tmp_path / "new" / "file.txt").read_text() == "text"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "folder"
    for name in ("old", "new"):
        with written_whole(folder) as draft:
            draft.mkdir()
            (draft / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_result_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), written_whole(path) as draft:
        draft.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_stays(tmp_path):
    """As `/dev/null` must, which who is root would otherwise put a file in the place of."""
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    with written_whole(pipe) as draft:
        draft.write_text("text")
    reader.join()
    assert found == ["text"] and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
