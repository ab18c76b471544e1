"""`genarm-hf reproduce`: one claim, all of them, the page; a claim that costs nothing stands for the real ones."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from genarm_hf.cli import main
from genarm_hf.reproduce import claims, page
from genarm_hf.reproduce.samples import collect, summarise


@pytest.fixture
def toy(monkeypatch):
    """A claim of one cell and two samples."""
    module = ModuleType("genarm_hf.reproduce.toy")
    made = []

    def run(lab, output, progress):
        def make(cell):
            made.append(cell)
            return [{"prompt": prompt, "reward": prompt + len(lab.prompts)} for prompt in range(2)]

        return summarise(collect(output / "samples.jsonl", [{"seed": 0}], make, progress), ["seed"], ["reward"])

    module.answer = lambda rows: "it is"
    module.run, module.findings, module.TITLE, module.CLAIM = run, lambda rows: ["So it is."], "Toy", "It is."
    module.plot = lambda rows, path: path.write_text("drawn")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for place in (claims, page):
        monkeypatch.setattr(place, "CLAIMS", {"toy": 9})
    return made


def test_all_claims_and_their_page(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "--fast", "--threads", "1", "--lab", "lab"]) == 0
    out = capsys.readouterr().out
    assert "So it is." in out and "30.5" in out and "1 of 1: seed 0" in out
    found = json.loads((tmp_path / "reproduce-fast" / "toy" / "table.json").read_text())
    assert found["command"] == "genarm-hf reproduce toy --fast" and found["lab"]["lab"] == "fast"
    assert (tmp_path / "reproduce-fast" / "toy" / "figure.png").read_text() == "drawn"
    assert "## 9. Toy" in (tmp_path / "reproduce-fast" / "results.md").read_text()
    assert main(["reproduce", "toy", "--fast", "--threads", "1", "--lab", "lab"]) == 0
    assert len(toy) == 1  # what is on disk is not made again


def test_the_full_set_has_a_folder_of_its_own(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "toy", "--threads", "1", "--lab", "lab"]) == 0
    assert "300 (300 to 301)" in capsys.readouterr().out
    assert main(["reproduce", "report", "--page", "docs/page.md"]) == 0
    assert "300 (300 to 301)" in (tmp_path / "docs" / "page.md").read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nonsense"], f"'nonsense' is no claim; there are {', '.join(claims.CLAIMS)}, all, lab, report."),
        (["credit", "--page", "x.md"], "`--page` is for all and report, not for credit."),
        (["report"], "no table.json of a claim"),
        (["--lab", "file"], "`--lab` must be a folder, and 'file' is a file."),
        (["--data", "file"], "`--data` must be a folder of preference pairs, got 'file'."),
    ],
)
def test_bad_input(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["reproduce", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_claim_that_lacks_its_data_is_skipped(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sys.modules["genarm_hf.reproduce.toy"].skipped = lambda lab: None if lab.data else "Skipped: no data."
    assert main(["reproduce", "toy", "--fast", "--threads", "1", "--lab", "lab"]) == 0
    assert "toy. Skipped: no data." in capsys.readouterr().out and not toy
    assert main(["reproduce", "toy", "--fast", "--threads", "1", "--lab", "lab", "--data", "."]) == 0
    assert "So it is." in capsys.readouterr().out


RUN_THAT_IS_KILLED = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from genarm_hf.cli.reproduce import _end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_workers_end_with_a_run_that_is_killed(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN_THAT_IS_KILLED, encoding="utf-8")
    run = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    worker = int(run.stdout.readline())
    assert Path(f"/proc/{worker}").exists()
    run.kill()
    run.communicate()
    end = time.monotonic() + 20
    while _running(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _running(worker)


def _running(process):
    try:  # one that has ended may be listed until somebody asks how
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
