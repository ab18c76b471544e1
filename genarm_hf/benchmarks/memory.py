"""Peak memory: torch's own count on a GPU, and that of a fresh process on a CPU.

A process gives freed memory back when it likes, so a peak is only worth something where nothing has run before.
"""

import gc
import math
import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_fresh_process(function: Callable[..., float], *args: Any) -> float:
    """What `function(*args)` returns in a process of its own, with as many threads as this one has.

    It is `nan` where memory cannot be measured (Linux only).
    """
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_with_threads, (torch.get_num_threads(), function, args)))


def _with_threads(threads: int, function: Callable[..., float], args: tuple) -> float:
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return function(*args)


def peak_increase(run: Callable[[], Any], device: str = "cpu") -> float:
    """Most memory in bytes that a run takes above what is held before it; on a CPU, of the whole process."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return float(torch.cuda.max_memory_allocated() - before)
    # `ru_maxrss` would be that of the parent, if it was larger: it outlives the start of another program
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak starts from here
    before = _memory("VmRSS")
    run()
    return float(_memory("VmHWM") - before)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
