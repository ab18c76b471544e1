"""A run that was killed, cut or interrupted anywhere ends as if nothing had happened, and another run is refused."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genarm_hf.evaluation import manifest, read, run
from genarm_hf.evaluation.runner import _batches, as_rows, batch_seed

PROMPTS = [f"prompt {index} é\u2028\n" for index in range(7)]


def system(prompts, seed):
    """Replies that depend on the seed and on everyone in the batch, as sampling in a batch does."""
    rng = random.Random(f"{seed} {prompts}")
    return [{"reply": f"{prompt} -> {rng.random()}", "tokens": rng.randrange(9)} for prompt in prompts]


def go(path, **changes):
    options = {"name": "toy", "seed": 3, "samples": 2, "batch_size": 3, "settings": {"alpha": 1.0}} | changes
    return run(options.pop("system", system), options.pop("prompts", PROMPTS), path, **options)


@pytest.fixture
def whole(tmp_path) -> bytes:
    go(tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


def test_lines_say_everything(tmp_path):
    rows = [{"id": "a", "prompt": "Hi", "topic": "x"}, {"prompt": "Yo", "topic": "y"}]
    lines = go(tmp_path / "out.jsonl", prompts=rows)
    assert lines == read(tmp_path / "out.jsonl") and len(lines) == 4
    assert list(lines[0]) == ["id", "system", "seed", "sample", "prompt", "reply", "topic", "tokens"]
    assert {(line["id"], line["sample"], line["topic"]) for line in lines} == {
        ("a", 0, "x"),
        (1, 0, "y"),
        ("a", 1, "x"),
        (1, 1, "y"),
    }
    assert len({line["reply"] for line in lines}) == 4  # samples are drawn anew
    kept = json.loads((tmp_path / "out.manifest.json").read_text())
    assert kept["settings"] == {"alpha": 1.0} and kept["prompts"]["count"] == 2
    assert kept["versions"]["transformers"]


def test_a_file_cut_at_any_byte_is_completed(tmp_path, whole):
    """Whatever a kill leaves of the file; what was there is not drawn again."""
    path, ends = tmp_path / "whole.jsonl", [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in sorted({0, 1, len(whole), *ends, *(end + 1 for end in ends), *range(40, len(whole), 61)}):
        path.write_bytes(whole[:size])
        calls = []
        go(path, system=lambda prompts, seed, calls=calls: calls.append(prompts) or system(prompts, seed))
        assert path.read_bytes() == whole, size
        done = whole[:size].count(b"\n")
        # samples of 7 prompts in batches of 3, 3 and 1
        assert len(calls) == sum(done < end for end in (3, 6, 7, 10, 13, 14))


def test_an_error_in_the_middle_keeps_what_is_done(tmp_path, whole):
    calls = []

    def failing(prompts, seed):
        calls.append(seed)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return system(prompts, seed)

    with pytest.raises(RuntimeError, match="out of memory"):
        go(tmp_path / "out.jsonl", system=failing)
    assert len(read(tmp_path / "out.jsonl")) == 6
    go(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == whole


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from tests.evaluation.test_runner import go, system

def slow(prompts, seed):
    time.sleep(0.01)
    return system(prompts, seed)

rng, kills = random.Random(0), 0
for attempt in range(60):
    child = os.fork()
    if not child:
        go(sys.argv[2], system=slow)
        os._exit(0)
    if attempt < 12:
        time.sleep(rng.uniform(0.002, 0.03))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    kills += os.WIFSIGNALED(status)
    if status == 0:
        break
print(kills, status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kill_9_again_and_again_loses_and_repeats_nothing(tmp_path, whole):
    root = str(Path(__file__).parents[2])
    arguments = [sys.executable, "-c", KILLED, root, str(tmp_path / "out.jsonl")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    kills, status = map(int, done.stdout.split())
    assert kills >= 3 and status == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_a_full_disk_leaves_whole_lines(tmp_path, whole, monkeypatch):
    path, calls = tmp_path / "out.jsonl", []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # the manifest, a batch, another one
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        go(path)
    monkeypatch.undo()
    assert whole.startswith(path.read_bytes()) and path.read_bytes().count(b"\n") == 3
    go(path)
    assert path.read_bytes() == whole


# ---------------------------------------------------------------------- another run is refused


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"settings": {"alpha": 0.5}}, r"- settings.alpha: 1.0 -> 0.5"),
        ({"settings": {}}, r"- settings.alpha: 1.0 -> null"),
        ({"settings": {"alpha": 1.0, "model": "x"}}, r'- settings.model: null -> "x"'),
        ({"seed": 4}, r"- seed: 3 -> 4"),
        ({"name": "other"}, r'- system: "toy" -> "other"'),
        ({"samples": 3}, r"- samples: 2 -> 3"),
        ({"batch_size": 2}, r"- batch_size: 3 -> 2"),
        ({"prompts": ["changed", *PROMPTS[1:]]}, r"id 0, prompt: \"prompt 0 é.*-> \"changed\""),
        ({"prompts": PROMPTS[:-1]}, r"id 6 is not there any more"),
        ({"prompts": [*PROMPTS, "more"]}, r"prompts: 7 -> 8 rows"),
        ({"prompts": [{"id": i, "prompt": p} for i, p in enumerate(PROMPTS)][::-1]}, r"in another order"),
    ],
)
def test_another_run_is_refused_with_the_difference(tmp_path, whole, changes, shown):
    with pytest.raises(ValueError, match="is of another run") as error:
        go(tmp_path / "whole.jsonl", **changes)
    assert re.search(shown, str(error.value)), str(error.value)
    assert (tmp_path / "whole.jsonl").read_bytes() == whole


def test_a_file_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "out.jsonl").write_text('{"id": 0}\n')
    with pytest.raises(ValueError, match=r"no out\.manifest\.json"):
        go(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == '{"id": 0}\n'


def test_a_line_that_no_kill_broke_is_an_error(tmp_path, whole):
    (tmp_path / "whole.jsonl").write_bytes(b"{nonsense\n" + whole)
    with pytest.raises(ValueError, match="Line 1 is not JSON"):
        go(tmp_path / "whole.jsonl")


def test_other_versions_are_told(tmp_path, whole, monkeypatch):
    beside = tmp_path / "whole.manifest.json"
    kept = json.loads(beside.read_text())
    kept["versions"]["torch"] = "1.0"
    beside.write_text(json.dumps(kept))
    told = []
    monkeypatch.setattr(manifest.logger, "warning", told.append)
    go(tmp_path / "whole.jsonl")
    assert len(told) == 1 and 'torch: "1.0" -> ' in told[0]
    assert (tmp_path / "whole.jsonl").read_bytes() == whole


def test_two_processes_do_not_write_one_file(tmp_path, whole):
    def inner(prompts, seed):
        go(tmp_path / "out.jsonl")
        return prompts

    with pytest.raises(BlockingIOError, match="Another process is writing"):
        go(tmp_path / "out.jsonl", system=inner)
    go(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == whole


# ---------------------------------------------------------------------- rows, batches, replies


def test_columns_reach_the_system_and_failures_are_lines(tmp_path):
    rows = [{"prompt": "Hi", "alpha": 0.5}, {"prompt": [{"role": "user", "content": "Yo"}], "alpha": 2}]

    def dial(prompts, seed, alpha):
        return [
            {"reply": None, "error": "too long"} if one > 1 else f"{prompt} at {one}"
            for prompt, one in zip(prompts, alpha, strict=True)
        ]

    lines = go(tmp_path / "out.jsonl", system=dial, prompts=rows, columns=["alpha"], samples=1)
    assert [line["reply"] for line in lines] == ["Hi at 0.5", None]
    assert lines[1]["error"] == "too long" and lines[1]["prompt"] == rows[1]["prompt"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "with one at least"),
        ("Hi", "must be a list of prompts"),
        ([{"text": "Hi"}], r"`prompts\[0\]` has no `prompt`"),
        ([{"prompt": "Hi", "reply": "x"}], "has the column 'reply', which lines use"),
        ([{"prompt": "Hi", "id": 1}, "Yo"], "id 1 has the id of another one"),
        ([{"prompt": "Hi", "id": 1.5}], "must be a string or an integer"),
    ],
)
def test_bad_prompts_are_refused(tmp_path, prompts, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "out.jsonl", prompts=prompts)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        (["one"], "got 1 replies to 3 prompts"),
        ("abc", "got a string"),
        ([1, 2, 3], "must reply with a string"),
        ([{"text": "x"}] * 3, "must reply with a string"),
        ([{"reply": "x", "seed": 1}] * 3, "says 'seed' of a sample"),
    ],
)
def test_bad_replies_are_refused(tmp_path, replies, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "out.jsonl", system=lambda prompts, seed: replies)
    assert read(tmp_path / "out.jsonl") == []


def test_a_missing_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="id 0 lacks the column 'alpha'"):
        go(tmp_path / "out.jsonl", columns=["alpha"])


@pytest.mark.parametrize(
    "changes", [{"samples": 0}, {"batch_size": 0}, {"batch_tokens": 0, "length": len}, {"batch_tokens": 9}]
)
def test_bad_numbers_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match="must be at least 1"):
        go(tmp_path / "out.jsonl", **changes)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 100))
def test_batches_by_tokens_hold_everyone_once_within_the_budget(sizes, batch_size, budget):
    rows = as_rows(["x" * (size or 1) for size in sizes])
    batches = _batches(rows, batch_size, budget, len)
    assert sorted(row["id"] for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        longest = max(len(row["prompt"]) for row in batch)
        assert len(batch) <= batch_size and (len(batch) * longest <= budget or len(batch) == 1)


def test_broken_text_does_not_end_a_run(tmp_path):
    lines = go(tmp_path / "out.jsonl", prompts=["\ud83d half", "\x00"], samples=1)
    assert read(tmp_path / "out.jsonl") == lines and lines[0]["prompt"] == "\ud83d half"


def test_seeds_differ_and_stay():
    seeds = {batch_seed(seed, sample, [first]) for seed in range(5) for sample in range(5) for first in range(5)}
    assert len(seeds) == 125 and all(0 <= seed < 2**31 for seed in seeds)
    assert batch_seed(0, 0, [0, "a"]) == 2133457289  # files of earlier versions go on


def test_progress_and_folders(tmp_path):
    told = []
    go(tmp_path / "a" / "one.jsonl", progress=lambda *done: told.append(done))
    go(tmp_path / "a" / "two.jsonl", seed=4)
    assert told == [(0, 14), (3, 14), (6, 14), (7, 14), (10, 14), (13, 14), (14, 14)]
    assert [line["seed"] for line in read(tmp_path / "a")] == [3] * 14 + [4] * 14
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.jsonl")
