"""`genarm-hf generate --input`: killed again and again, by one process or two, it ends as if never interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genarm_hf.cli import main
from genarm_hf.cli.generate_job import processes
from genarm_hf.evaluation import read

from .test_generate import expected

ROOT = Path(__file__).parents[2]
ROWS = [{"id": f"row {i}", "prompt": f"w{5 + i % 9} w{6 + i % 7} w7", "topic": i % 3} for i in range(24)]


@pytest.fixture
def prompts(tmp_path) -> Path:
    return write(tmp_path / "prompts.jsonl", ROWS)


def write(path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def command(base_dir, arm_dir, tmp_path, prompts, capsys):
    """Runs a job with the usual models and gives what it says; `arms=` and `base=` name others."""

    def run(*argv: str, base=base_dir, arms=(arm_dir,), output="out.jsonl", status: int = 0) -> str:
        models = ["--model", str(base), *(part for arm in arms for part in ("--reward-model", str(arm)))]
        given = [] if "--input" in argv else ["--input", str(prompts)]
        job = ["generate", *models, *given, "--output", str(tmp_path / output), "--max-new-tokens", "8"]
        assert main([*job, "--device", "cpu", *argv]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def test_replies_are_those_of_one_prompt_with_columns_carried_over(command, base_dir, arm_dir, tmp_path):
    out = command("--alpha", "2", "--batch-size", "5")
    assert out == f"{tmp_path / 'out.jsonl'}: 24 replies\n"
    lines = read(tmp_path / "out.jsonl")
    assert [(line["id"], line["prompt"], line["topic"]) for line in lines] == [tuple(row.values()) for row in ROWS]
    assert lines[0]["reply"].strip() == expected(base_dir, [arm_dir], 2.0)
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["settings"]["model"]["name"] == str(base_dir) and manifest["settings"]["alpha"] == 2.0


def test_errors_of_rows_are_lines_and_the_job_goes_on(command, tmp_path):
    source = write(tmp_path / "bad.jsonl", [ROWS[0], "{", {"id": "long", "prompt": "w5 " * 250}, {"text": "x"}])
    out = command("--input", str(source), "--alpha", "1")
    lines = read(tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == ["row 0", "line 2", "long", "line 4"]
    assert [line["reply"] is None for line in lines] == [False, True, True, True]
    assert "out.jsonl: 1 replies, 3 errors:\n- id 'line 2': line 2: it is not JSON" in out
    assert "- id 'long': the prompt has 250 tokens, and the base reads at most 256" in out


def test_a_column_of_alphas(command, base_dir, arm_dir, tmp_path):
    rows = [{"prompt": "w5 w6 w7", "strength": 2}, {"prompt": "w5 w6 w7", "strength": 0}, {"prompt": "w5 w6 w7"}]
    source = write(tmp_path / "dial.jsonl", rows)
    command("--input", str(source), "--alpha-column", "strength", "--alpha", "1")
    wanted = [expected(base_dir, [arm_dir], alpha) for alpha in (2.0, 0.0, 1.0)]
    assert [line["reply"].strip() for line in read(tmp_path / "out.jsonl")] == wanted


def test_several_samples(command, tmp_path):
    command("--samples", "3", "--temperature", "3", "--alpha", "1", "--seed", "4")
    lines = read(tmp_path / "out.jsonl")
    assert len(lines) == 72 and len({line["reply"] for line in lines if line["id"] == "row 0"}) == 3
    command("--samples", "3", "--temperature", "3", "--alpha", "1", "--seed", "4", output="again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert "`--samples` must be 1 where nothing is drawn, got 2" in command(
        "--samples", "2", "--temperature", "0", output="none.jsonl", status=2
    )


def test_a_device_map(command, tmp_path):
    command("--alpha", "1")
    command("--alpha", "1", "--device", "auto", "--device-map", "auto", output="spread.jsonl")
    assert texts(tmp_path / "spread.jsonl") == texts(tmp_path / "out.jsonl")


def texts(path):
    return [line["reply"] for line in read(path)]


def test_another_job_is_refused_with_the_difference(command, base_dir, lora_dir, tmp_path):
    command("--alpha", "1")
    before = (tmp_path / "out.jsonl").read_bytes()
    assert "settings.alpha: 1.0 -> 2.0" in command("--alpha", "2", status=2)
    assert "settings.reward_models: [{" in command("--alpha", "1", arms=(lora_dir,), status=2)
    other = write(tmp_path / "other.jsonl", [*ROWS[:-1], ROWS[-1] | {"prompt": "w9"}])
    said = command("--alpha", "1", "--input", str(other), status=2)
    assert "id 'row 23', prompt:" in said and said.count("\n") == 1
    (tmp_path / "other").mkdir()
    for file in base_dir.iterdir():
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    assert "settings.model.name" in command("--alpha", "1", base=tmp_path / "other", status=2)
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(command, tmp_path, monkeypatch):
    command("--alpha", "1", "--batch-size", "4", output="whole.jsonl")
    calls, fsync = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:  # the manifest, two batches, another one
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    err = command("--alpha", "1", "--batch-size", "4", status=2)
    said = err.splitlines()[-1]
    assert said.startswith("genarm-hf: [Errno 28] No space left on device; what was done before is kept, and the same")
    assert len(read(tmp_path / "out.jsonl")) == 8
    command("--alpha", "1", "--batch-size", "4")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a prompt"], "A prompt does not go with `--input`"),
        (["--compare"], "`--compare` does not go with `--input`"),
        (["--show-rewards"], "`--show-rewards` does not go with"),
        (["--samples", "0"], "`--samples` must be at least 1"),
        (["--max-tokens-per-batch", "0"], "`--max-tokens-per-batch` must be at least 1"),
        (["--device", "cpu", "--device-map", "auto"], "`--device` cannot name one"),
        (["--device-map", "everywhere"], "invalid choice: 'everywhere'"),
        (["--prompt-column", "question"], "there is no prompt in the column 'question'; the columns are id, prompt"),
        (["--alpha-column", "strength"], "has the column 'strength'"),
    ],
)
def test_bad_options(command, argv, said):
    err = command(*argv, status=2)
    assert said in err and err.count("\n") == 1


def test_bad_outputs(command, prompts, base_dir, arm_dir, capsys):
    assert "must be a file that ends in .jsonl, got" in command(output="out.json", status=2)
    assert "`--output` is the file of `--input`" in command(output="prompts.jsonl", status=2)
    assert read(prompts) == ROWS
    models = ["--model", str(base_dir), "--reward-model", str(arm_dir)]
    assert main(["generate", *models, "--input", str(prompts)]) == 2
    assert "`--input` needs `--output`" in capsys.readouterr().err
    assert main(["generate", *models, "--samples", "2", "Hi"]) == 2
    assert "`--samples` is for data sets: it needs `--input`" in capsys.readouterr().err
    assert main(["generate", *models]) == 2
    assert "give a prompt, or a data set of them as `--input`" in capsys.readouterr().err


def test_processes_come_from_the_launcher(monkeypatch, command):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes() == (0, 1)  # nobody says which of them this is
    monkeypatch.setenv("RANK", "3")
    assert processes() == (3, 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "there can be one process a machine" in command("--device", "auto", "--device-map", "auto", status=2)
    monkeypatch.setenv("RANK", "4")
    assert "RANK and WORLD_SIZE in the environment must be numbers" in command(status=2)


def test_another_number_of_processes_goes_on(command, monkeypatch, tmp_path):
    options = ("--alpha", "1", "--temperature", "2", "--batch-size", "4")
    command(*options)
    for rank, world_size in ((2, 3), (0, 2), (1, 2)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        out = command(*options, output="shared.jsonl")
        assert ("24 replies" in out) == (world_size == 2 and rank == 1), out
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.part-*"))


# ---------------------------------------------------------------------- kills

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from tqdm.auto import tqdm
from genarm_hf.cli import main

tqdm.monitor_interval = 0  # no thread that children would miss
kills, whole, path, *job = sys.argv[1:]
assert main([*job, "--output", whole]) == 0
rng, done, path = random.Random(0), 0, Path(path)
size = lambda: path.stat().st_size if path.exists() else 0
while True:
    before, start = size(), time.monotonic()
    child = os.fork()
    if not child:
        os._exit(main([*job, "--output", str(path)]))
    if done < int(kills):
        early = done % 4 == 3  # one of four before it replies to anything
        while size() <= before and time.monotonic() < start + (rng.uniform(0, 0.3) if early else 30):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    done += os.WIFSIGNALED(status)
    if not os.WIFSIGNALED(status):
        break
print(done, status)
"""


def killed(times, prompts, base_dir, arm_dir, folder):
    job = ["generate", "--model", str(base_dir), "--reward-model", str(arm_dir), "--input", str(prompts)]
    job += ["--alpha", "1", "--temperature", "2", "--samples", "2", "--batch-size", "1", "--max-new-tokens", "8"]
    files = [str(folder / "whole.jsonl"), str(folder / "killed.jsonl")]
    command = [sys.executable, "-c", KILLED, str(times), *files, *job, "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == f"{times} 0"
    assert Path(files[1]).read_bytes() == Path(files[0]).read_bytes()
    assert len(read(files[1])) == 2 * len(ROWS)
    assert len(list(folder.glob("killed*"))) == 2 and not list(folder.glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_loses_and_repeats_nothing(prompts, base_dir, arm_dir, tmp_path, times):
    killed(times, prompts, base_dir, arm_dir, tmp_path)


@pytest.mark.slow
def test_accelerate_launch_on_two_processes(command, prompts, base_dir, arm_dir, tmp_path):
    options = ("--alpha", "1", "--temperature", "2", "--batch-size", "4")
    command(*options)
    config = tmp_path / "ddp.yaml"
    text = (ROOT / "examples" / "accelerate" / "ddp.yaml").read_text()
    config.write_text(text.replace("use_cpu: false", "use_cpu: true"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "2"]
    job = ["generate", "--model", str(base_dir), "--reward-model", str(arm_dir), "--input", str(prompts), *options]
    job += ["--output", str(tmp_path / "shared.jsonl"), "--max-new-tokens", "8", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "--main_process_port", "0", "-m", "genarm_hf.cli", *job],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert "24 replies" in done.stdout
    assert not list(tmp_path.glob("*.part-*"))
