"""An engine in a process of its own, for options that this process could not take back: `python -m` with a JSON task.

The task has `folder`, `options`, `prompts` and `alphas`; the last line printed has the new tokens of each prompt.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .conftest import generate, params, start


def generate_apart(folder: Any, prompts: list[list[int]], alphas: list[Any], environment: dict, **options: Any) -> Any:
    """New tokens of each prompt."""
    task = {"folder": str(folder), "options": options, "prompts": prompts, "alphas": alphas}
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(task)],
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":  # vLLM's workers import this again
    task = json.loads(sys.argv[1])
    engine = start(task["folder"], **task["options"])
    tokens = generate(engine, task["prompts"], [params(alpha) for alpha in task["alphas"]])
    print("\n" + json.dumps(tokens), flush=True)
