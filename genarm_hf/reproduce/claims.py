"""The claims, and running one: its samples, its table and its figure, each complete or not there."""

import json
import shlex
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..benchmarks.timing import environment
from ..evaluation.runner import read
from ..files import written_whole
from .lab import Lab

CLAIMS = {
    "test_time": 1,
    "training_time": 2,
    "weak_to_strong": 3,
    "multi_objective": 4,
    "expressiveness": 5,
    "ablations": 6,
    "credit": 7,
    "real_text": 8,
}
"""Name of a claim, which is that of its module, to its number; in the order in which they run."""

TABLE, FIGURE = "table.json", "figure.png"


def skipped(name: str, lab: Lab) -> str | None:
    """Why a claim cannot be measured with this lab, in a sentence; None where it can."""
    module: Any = import_module(f".{name}", __package__)
    return module.skipped(lab) if hasattr(module, "skipped") else None


def reproduce(name: str, lab: Lab, output: Path, progress: Callable[[str], Any] = lambda message: None) -> dict:
    """Measure a claim and write what came out.

    Args:
        name: one of `CLAIMS`.
        lab: of models and prompts.
        output: gets a folder of the claim's name, with `samples.jsonl`, `table.json` and `figure.png`.
        progress: told what is being done.

    Returns:
        what `table.json` holds.
    """
    module: Any = import_module(f".{name}", __package__)
    folder, started = output / name, time.perf_counter()
    rows = module.run(lab, folder, lambda message: progress(f"{name}: {message}"))
    found = {
        "claim": name,
        "number": CLAIMS[name],
        "title": module.TITLE,
        "paper": module.CLAIM,
        "answer": module.answer(rows),
        "findings": module.findings(rows),
        "command": _command(name, lab, module),
        "lab": lab.describe(),
        "environment": environment(),
        "seconds_of_last_run": round(time.perf_counter() - started, 1),
        "samples": {file.name: len(read(file)) for file in sorted(folder.glob("*.jsonl"))},
        "rows": rows,
    }
    with written_whole(folder / TABLE) as draft:
        draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    try:
        with written_whole(folder / FIGURE) as draft:
            module.plot(rows, draft)
    except ImportError as error:
        progress(f"{name}: no figure was drawn. {error}")
    return found


def _command(name: str, lab: Lab, module: Any) -> str:
    """What to type; where the data is on this machine is nobody's business."""
    data = ["--data", "DIR"] if hasattr(module, "skipped") else []
    return shlex.join(["genarm-hf", "reproduce", name, *data, *(["--fast"] if lab.fast else [])])
