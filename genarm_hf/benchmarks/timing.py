"""How things are timed: alternating, several times, compared run by run.

A machine's speed drifts; two runs right after one another see the same machine. So what is compared is run in turn, A
B B A, and a ratio is the median of the ratios of one round. Every other round goes backwards, since a run is faster
behind one like it, which has left memory and caches as it needs them.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Times = dict[str, list[float]]


def alternate(
    runs: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1, progress: Callable[[], Any] | None = None
) -> Times:
    """Time several things in turn.

    Args:
        runs: what to time, by name.
        repeats: rounds that count.
        warmup: rounds before that do not.
        progress: called after each run.

    Returns:
        seconds of every counted run, by name, in the order of the rounds.
    """
    times: Times = {name: [] for name in runs}
    for round_ in range(-warmup, repeats):
        for name, run in list(runs.items())[:: -1 if round_ % 2 else 1]:
            seconds = _seconds(run)
            if round_ >= 0:
                times[name].append(seconds)
            if progress is not None:
                progress()
    return times


def _seconds(run: Callable[[], Any]) -> float:
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Median of the paired ratios, with their quartiles.

    Example:

    ```python
    >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])["median"]
    2.0

    ```
    """
    pairs = [a / b for a, b in zip(numerator, denominator, strict=True)]
    quartiles = statistics.quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else [pairs[0]] * 3
    return {"median": statistics.median(pairs), "low": quartiles[0], "high": quartiles[2]}


def environment() -> dict[str, Any]:
    """What a reader needs to know to compare numbers: versions, processor or GPU, threads."""
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
