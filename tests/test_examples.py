"""The scripts in examples/ run as a user runs them and print what they promise, in sizes that teach them nothing."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MOST_LINES = 60


def run(name: str, folder: Path, *arguments: str) -> str:
    """Standard output of an example, run in an empty directory."""
    return output_of([sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments], folder)


def run_code(script: str, folder: Path) -> str:
    """Standard output of code, run likewise."""
    return output_of([sys.executable, "-c", script], folder)


def output_of(command: list[str], folder: Path) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_guide(tmp_path: Path) -> None:
    output = run("01_guide", tmp_path, "8")
    assert re.search(r"^alpha 0: \S+", output, re.MULTILINE) and re.search(r"^alpha 2: \S+", output, re.MULTILINE)
    trained, control = (re.findall(rf"^{name}: .*$", output, re.MULTILINE)[0] for name in ("trained", "control"))
    # at alpha 0 it does not matter who guides
    assert re.search(r"alpha 0: \S+", trained)[0] == re.search(r"alpha 0: \S+", control)[0]  # type: ignore[index]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_multi_objective(tmp_path: Path) -> None:
    output = run("02_multi_objective", tmp_path, "8", "4")
    assert len(re.findall(r"^ +\d\.\d+ +\d\.\d+ \| +-?\d+\.\d\d +-?\d+\.\d\d$", output, re.MULTILINE)) == 6
    assert len(re.findall(r"^\(\d\.\d+, \d\.\d+\): \S+", output, re.MULTILINE)) == 6


def test_score_and_explain(tmp_path: Path) -> None:
    output = run("03_score_and_explain", tmp_path, "8")
    totals = re.findall(r"^ *(-\d+\.\d) +-?\d+\.\d +-?\d+\.\d\d +\S", output, re.MULTILINE)
    assert len(totals) == 3
    explained = re.findall(r"^ *\S+ +(-?\d+\.\d\d) +[+-]\d+\.\d\d$", output, re.MULTILINE)
    # as many as the third reply has words, full stops and an end
    assert len(explained) == 22
    assert sum(map(float, explained)) == pytest.approx(float(totals[2]), abs=0.2)


@pytest.mark.slow
def test_train_and_guide(tmp_path: Path) -> None:
    output = run("04_train_and_guide", tmp_path, "8", "arm")
    assert re.search(r"held-out pairs ranked as the judge did: \d+% before training, \d+% after", output)
    saved = {file.name for file in (tmp_path / "arm").iterdir()}
    assert {"config.json", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= saved
    alone, attached = output.split("reward model ")[1:]
    points = [re.findall(r"^alpha \S+: (\S+)", part, re.MULTILINE) for part in (alone, attached)]
    assert len(points[0]) == 3 and points[0][0] == points[1][0]


def test_pipeline(tmp_path: Path) -> None:
    output = run("05_pipeline", tmp_path, "8")
    assert output.count("\n  alone: ") == output.count("\n  guided: ") == 4
    rewards = [float(reward) for reward in re.findall(r"^ *(-\d+\.\d\d) nats \S*", output, re.MULTILINE)]
    assert len(rewards) == 4 and rewards == sorted(rewards, reverse=True)


def test_own_loop(tmp_path: Path) -> None:
    output = run("06_own_loop", tmp_path, "8")
    assert "equal to generate(reward_models=...): True" in output


@pytest.mark.slow
def test_weak_to_strong(tmp_path: Path) -> None:
    output = run("07_weak_to_strong", tmp_path, "8", "1")
    rows = {
        guide: re.findall(r"alpha \d: (\S+)", line)
        for guide, line in re.findall(r"^ *(trained|control|change)(.*)$", output, re.MULTILINE)
    }
    assert all(len(points) == 3 for points in rows.values()) and len({points[0] for points in rows.values()}) == 1
    assert re.search(r"^\d+ tokens in \d+ base forwards, \d+% of the drafts accepted$", output, re.MULTILINE)
    assert "equal to decoding without drafts: True" in output


@pytest.mark.slow
def test_evaluate(tmp_path: Path) -> None:
    told = [run("08_evaluate", tmp_path, "8", "3") for _ in range(2)]
    points, again = (re.findall(r"(\w+: \S+ \(\S+ to \S+\)) points", output) for output in told)
    assert len(points) == 3 and again == points, "what is on disk is read, not drawn anew"
    assert re.findall(r"guided against \w+: wins \d+%, ties \d+%, losses \d+%", told[0])
    assert len(list((tmp_path / "replies").glob("*.jsonl"))) == 6


def test_notebook(tmp_path: Path) -> None:
    """Its cells run one after the other in one namespace; it is stored without what they print."""
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    ours = ["".join(cell["source"]) for cell in code if not {"install", "skip"} & set(cell["metadata"].get("tags", ()))]
    script = "\n\n".join(ours)
    for large, small in (
        ("PAIRS = 256", "PAIRS = 8"),
        ("ALPHAS = (0, 0.5, 1, 2, 4)", "ALPHAS = (0, 1)"),
        ("prompts(32", "prompts(2"),
    ):
        assert large in script
        script = script.replace(large, small)
    output = run_code(script, tmp_path)
    assert re.search(r"^alpha 2: \S+", output, re.MULTILINE) and re.search(r"^2\.0 \S*", output, re.MULTILINE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_flat_and_public(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) < MOST_LINES
    assert ast.get_docstring(tree)
    assert f"test_{path.stem[3:]}" in globals(), "give it a test here"
    ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "genarm_hf" in (node.module or "")]
    names = [alias.name for node in ours for alias in node.names]
    assert all(node.module == "genarm_hf" for node in ours)
    assert not [name for name in names if name.startswith("_")]
