"""Processes that share a run, killed or started again in any number, end with the file of one process."""

import json
import os
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genarm_hf.evaluation import read, run_files

from .test_runner import go, system

resource = pytest.importorskip("resource")  # no Windows
BATCHES = 6  # of `go`: 7 prompts in threes, twice


class Killed(Exception):
    pass


@pytest.fixture
def whole(tmp_path) -> bytes:
    go(tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


def interrupted(batches):
    """A system that is killed before it replies to one more batch."""
    left = [batches]

    def reply(prompts, seed):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return system(prompts, seed)

    return reply


def share(path, rank, world_size, batches=BATCHES):
    try:
        go(path, system=interrupted(batches), rank=rank, world_size=world_size)
    except Killed:
        return False
    return True


def names(path):
    return sorted(one.name for one in path.parent.iterdir())


def test_the_last_process_puts_all_in_order(tmp_path, whole):
    path = tmp_path / "out.jsonl"
    assert share(path, 1, 2)
    assert read(path.with_name("out.jsonl.part-1")) and not path.exists()
    assert share(path, 0, 2)
    assert path.read_bytes() == whole
    assert names(path) == ["out.jsonl", "out.manifest.json", "whole.jsonl", "whole.manifest.json"]
    before = path.stat().st_mtime_ns
    assert share(path, 1, 2, batches=0) and share(path, 0, 1, batches=0)  # nothing is left to do
    assert path.stat().st_mtime_ns == before and names(path)[:2] == ["out.jsonl", "out.manifest.json"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.binary(max_size=3)), max_size=8),
    st.integers(1, 4),
)
def test_any_history_of_processes_and_kills(tmp_path_factory, history, last):
    """Each entry: how many processes, which of them, batches before it is killed, what is half written then."""
    folder = tmp_path_factory.mktemp("history")
    go(folder / "whole.jsonl")
    path, calls = folder / "out.jsonl", []
    for world_size, rank, batches, torn in history:
        rank %= world_size
        if not share(path, rank, world_size, batches):
            with open(run_files.own_file(path, rank), "ab") as file:
                file.write(torn.replace(b"\n", b"") and b'{"id": ' + torn.replace(b"\n", b""))
    for rank in range(last):
        go(path, system=lambda *batch: calls.append(batch) or system(*batch), rank=rank, world_size=last)
    assert path.read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert len(names(path)) == 4
    assert len({seed for _, seed in calls}) == len(calls) <= BATCHES  # no batch twice


def test_processes_at_the_same_time(tmp_path, whole):
    path, rng = tmp_path / "out.jsonl", random.Random(0)

    def slow(prompts, seed):
        time.sleep(rng.uniform(0, 0.01))
        return system(prompts, seed)

    def work(rank):
        go(path, system=slow, rank=rank, world_size=4)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == whole
    assert len(names(path)) == 4


def test_a_kill_between_the_rename_and_the_removal_of_parts(tmp_path, whole):
    path = tmp_path / "whole.jsonl"
    path.with_name("whole.jsonl.part-3").write_bytes(whole[: whole.index(b"\n") + 1])
    assert share(path, 0, 1, batches=0)
    assert path.read_bytes() == whole and names(path) == ["whole.jsonl", "whole.manifest.json"]


def test_batches_by_length_end_in_order(tmp_path):
    path = tmp_path / "out.jsonl"
    prompts = ["a", "abc", "ab", "abcd"]
    lines = go(path, prompts=prompts, batch_size=2, batch_tokens=8, length=len, samples=1)
    assert [line["prompt"] for line in lines] == prompts
    seen = []
    go(
        tmp_path / "other.jsonl",
        prompts=prompts,
        batch_size=2,
        batch_tokens=8,
        length=len,
        system=lambda prompts, seed: seen.append(prompts) or prompts,
    )
    assert seen[:2] == [["abcd", "abc"], ["ab", "a"]]


def test_parts_of_another_run_are_refused(tmp_path, whole):
    path = tmp_path / "out.jsonl"
    share(path, 1, 2)
    with pytest.raises(ValueError, match=r"settings.alpha: 1.0 -> 2.0"):
        go(path, settings={"alpha": 2.0}, rank=0, world_size=2)
    (tmp_path / "out.manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no out\.manifest\.json"):
        go(path, rank=0, world_size=2)


def test_what_has_no_replies_yet_may_change(tmp_path, whole):
    """A batch that did not fit into memory must not hold anyone to its size."""
    path = tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        go(path, system=interrupted(0), batch_size=7)
    go(path)
    assert path.read_bytes() == whole
    assert json.loads((tmp_path / "out.manifest.json").read_text())["batch_size"] == 3


def test_a_write_that_ends_in_the_middle_of_a_line(tmp_path, whole):
    """The system takes half of a batch and refuses the rest, as a full disk does; closing must not write it either."""
    path, limits = tmp_path / "out.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    lines = whole.splitlines(keepends=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(b"".join(lines[:5])) - 9, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large; what was done before is kept"):
            go(path, settings={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"".join(lines[:3])
    go(path, settings={})
    assert path.read_bytes() == whole


def test_a_full_disk_while_lines_are_put_in_order(tmp_path, whole, monkeypatch):
    path = tmp_path / "out.jsonl"
    share(path, 1, 2)

    def full(old, new):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        share(path, 0, 2)
    monkeypatch.undo()
    assert names(path)[:3] == ["out.jsonl", "out.jsonl.part-1", "out.manifest.json"]
    assert share(path, 0, 1, batches=0)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("place", ["/dev/full", "."])
def test_only_files_are_written(tmp_path, place):
    with pytest.raises(ValueError, match="must be a file"):
        go(tmp_path / place)


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_bad_ranks(tmp_path, rank, world_size):
    with pytest.raises(ValueError, match="`rank` must be from 0 to `world_size` - 1"):
        go(tmp_path / "out.jsonl", rank=rank, world_size=world_size)


def test_rows_with_an_error_are_lines_and_not_asked(tmp_path):
    rows = [{"prompt": "Hi", "alpha": 1}, {"error": "line 2: torn", "id": "b"}, {"prompt": 7, "error": "odd", "x": 1}]

    def echo(prompts, seed, alpha):
        return [f"{prompt} at {one}" for prompt, one in zip(prompts, alpha, strict=True)]

    lines = go(tmp_path / "out.jsonl", system=echo, prompts=rows, columns=["alpha"])
    assert [(line["id"], line["sample"], line["reply"], line.get("error")) for line in lines] == [
        (row, sample, "Hi at 1" if row == 0 else None, error)
        for sample in range(2)
        for row, error in ((0, None), ("b", "line 2: torn"), (2, "odd"))
    ]
    assert lines[1]["prompt"] is None and lines[2]["prompt"] == 7 and lines[2]["x"] == 1
