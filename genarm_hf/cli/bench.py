"""`genarm-hf bench`: speed, measured in a way that anyone can repeat."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .loading import load_base, quiet
from .parsing import CommandParser, UsageError
from .text import table

SUITES = ("decode", "shared", "speculative", "train", "preferences")
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class BenchOptions:
    """What may be varied."""

    threads: int = field(default=1, metadata={"help": "CPU threads", "metavar": "N"})
    repeats: int = field(default=7, metadata={"help": "rounds that count", "metavar": "N"})
    dtype: str = field(
        default="", metadata={"help": "float32, bfloat16, float16; default: the suite's", "metavar": "T"}
    )
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, ...", "metavar": "D"})
    compile: bool = field(default=False, metadata={"help": "static cache and compiled forwards (suite shared)"})
    shapes: str = field(default="", metadata={"help": "only these shapes, such as 1M,15M or 1B", "metavar": "S,S"})
    output: str = field(default="", metadata={"help": "also write the numbers to this json file", "metavar": "FILE"})
    data: str = field(default="", metadata={"help": "preference pairs (suite preferences)", "metavar": "SOURCE"})
    texts: str = field(
        default="",
        metadata={"help": "other pairs, on whose chosen responses a small model is pretrained", "metavar": "SOURCE"},
    )
    model: str = field(default="", metadata={"help": "or a model to start from: folder or hub name", "metavar": "DIR"})
    folds: int = field(default=5, metadata={"help": "parts that are held out in turn", "metavar": "N"})
    beta: float = field(default=0.05, metadata={"help": "inverse temperature of that training", "metavar": "B"})
    learning_rate: float = field(default=1e-3, metadata={"help": "its learning rate", "metavar": "LR"})
    epochs: float = field(default=2.0, metadata={"help": "its passes over the pairs", "metavar": "N"})
    length_normalize: bool = field(default=False, metadata={"help": "train and judge log-probabilities per token"})
    suite: str = field(init=False)


def parser() -> CommandParser:
    """The command line of `genarm-hf bench`."""
    return CommandParser(
        BenchOptions,
        "bench",
        "Time guided decoding and training: what is compared runs in turn in one process, and ratios are medians of "
        "neighbours.",
        positional=(
            "suite",
            "decode: two separate models; shared: LoRA reward models on the base's own weights; "
            "speculative: drafts by a trained reward model, or by a small base that it guides; train: training steps; "
            "preferences: what is learned from --data, by cross-validation",
        ),
    )


def run(options: BenchOptions) -> None:
    """Run a suite and print its table."""
    _check(options)
    import torch

    from ..benchmarks.timing import environment

    torch.set_num_threads(options.threads)
    with quiet():
        rows = list(_rows(options))
        header, cells = _TABLES[options.suite](rows)
        print(table(header, cells))
        print("  ".join(f"{key} {value}" for key, value in environment().items()))
        if options.output:
            report = {"suite": options.suite, "environment": environment(), "rows": rows}
            Path(options.output).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _check(options: BenchOptions) -> None:
    if options.suite not in SUITES:
        raise UsageError(f"bench: {options.suite!r} is no suite; the suites are {', '.join(SUITES)}.")
    if options.dtype and options.dtype not in _DTYPES:
        raise UsageError(f"bench: `--dtype` must be one of {', '.join(_DTYPES)}, got {options.dtype!r}.")
    if options.suite == "preferences" and not (options.data and bool(options.texts) != bool(options.model)):
        raise UsageError("bench: preferences needs `--data`, and either `--texts` or `--model`.")
    if options.folds < 2:
        raise UsageError(f"bench: `--folds` must be at least 2, got {options.folds}.")
    for name in ("beta", "learning_rate", "epochs"):
        if not 0 < getattr(options, name) < float("inf"):
            raise UsageError(
                f"bench: `--{name.replace('_', '-')}` must be a positive number, got {getattr(options, name)}."
            )
    for name in ("threads", "repeats"):
        if getattr(options, name) < 1:
            raise UsageError(f"bench: `--{name}` must be at least 1, got {getattr(options, name)}.")


def _preference_rows(options: BenchOptions) -> Iterator[dict[str, Any]]:
    from tqdm import tqdm

    from ..benchmarks.preferences import bench_preferences, small_language_model
    from ..training.preferences import load_preferences

    data = load_preferences(options.data)
    if options.texts:
        model, tokenizer = small_language_model([r["prompt"] + r["chosen"] for r in load_preferences(options.texts)])

        def make() -> tuple[Any, Any]:
            return copy.deepcopy(model), tokenizer
    else:

        def make() -> tuple[Any, Any]:
            return load_base(options.model, "float32", options.device)

    with tqdm(total=options.folds, unit="fold", leave=False) as bar:
        yield from bench_preferences(data, make, options.folds, training=_training(options), progress=bar.update)


def _training(options: BenchOptions) -> dict[str, Any]:
    return {
        "beta": options.beta,
        "learning_rate": options.learning_rate,
        "num_train_epochs": options.epochs,
        "length_normalize": options.length_normalize,
        "per_device_train_batch_size": 16,
        "max_tokens_per_batch": 4096,
        "overlong_responses": "drop",
    }


def _rows(options: BenchOptions) -> Iterator[dict[str, Any]]:
    if options.suite == "preferences":
        yield from _preference_rows(options)
        return
    import torch
    from tqdm import tqdm

    from ..benchmarks import decode, shared, speculative, train
    from ..benchmarks.shapes import SHAPES

    suites = {"decode": decode, "shared": shared, "speculative": speculative, "train": train}
    module: Any = suites[options.suite]
    wanted = [shape for shape in options.shapes.split(",") if shape]
    cases = [case for case in module.CASES if not wanted or case[0] in wanted]
    if not cases and options.suite != "speculative":  # shapes that are too large for a test of everything
        cases = [(shape, *module.CASES[0][1:]) for shape in wanted if shape in SHAPES]
    if not cases:
        raise UsageError(f"bench: no case of {options.suite} has the shape {options.shapes!r}.")
    extra: dict[str, Any] = {"compiled": options.compile} if options.suite == "shared" else {}
    if options.dtype:
        extra["dtype"] = getattr(torch, options.dtype)
    measure = getattr(module, f"bench_{options.suite}")
    with tqdm(desc="runs", unit="run", leave=False) as bar:
        yield from measure(cases, repeats=options.repeats, device=options.device, progress=bar.update, **extra)


def _spread(value: dict[str, float]) -> str:
    return f"{value['median']:.3f} ({value['low']:.3f}-{value['high']:.3f})"


def _decode_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["model", "batch", "base tok/s", "arm tok/s", "guided tok/s", "naive tok/s", "of physical sum", "asked"]
    cells = []
    for row in rows:
        speeds = [f"{row['tokens_per_second'][name]:.0f}" for name in ("base", "arm", "guided", "naive")]
        cells.append([row["shape"], str(row["batch"]), *speeds, _spread(row["of_physical_sum"]), str(row["asked"])])
    return header, cells


def _shared_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["model", "batch", "arms", "dtype", "mode", "base ms", "step: one pass", "separate", "call: one pass"]
    return [*header, "separate"], [
        [
            row["shape"],
            str(row["batch"]),
            str(row["reward_models"]),
            row["dtype"],
            row["cache"],
            f"{row['base_ms_per_step']:.1f}",
            *(_spread(row[f"{what}{which}_of_base"]) for what in ("step_", "") for which in ("one_pass", "separate")),
        ]
        for row in rows
    ]


def _speculative_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["draft", "decoding", "base ms/token", "base / draft", "tokens/base forward", "acceptance"]
    header += ["token by token / unguided", "speculative / unguided", "asked"]
    return header, [
        [
            row["draft"],
            "sampling" if row["sampling"] else "greedy",
            f"{row['base_ms_per_token']:.1f}",
            f"{row['base_of_draft']['median']:.1f}",
            f"{row['tokens_per_base_forward']:.2f}",
            f"{100 * row['acceptance']:.0f} %",
            _spread(row["guided_of_base"]),
            _spread(row["speculative_of_base"]),
            str(row["asked"]),
        ]
        for row in rows
    ]


def _train_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["model", "vocabulary", "batch", "system", "pairs/s", "times plain loop", "times TRL", "peak memory MB"]
    return header, [
        [
            row["shape"],
            str(row["vocab"]),
            str(row["batch"]),
            row["system"],
            f"{row['pairs_per_second']:.2f}",
            _spread(row["of_plain"]),
            "not installed" if row["of_trl"] is None else _spread(row["of_trl"]),
            "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}",
        ]
        for row in rows
    ]


def _preference_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    lengths = ("shorter", "similar", "longer")
    header = ["system", "pairs", "accuracy", "95 %", *(f"chosen {name}" for name in lengths), "length corr."]
    cells = []
    for row in rows:
        accuracy, by_length = row["accuracy"], [row["by_length"][name] for name in lengths]
        shares = ["" if part is None else f"{100 * part['value']:.1f} ({part['count']})" for part in by_length]
        interval = f"{100 * accuracy['low']:.1f}-{100 * accuracy['high']:.1f}"
        correlation = row["length_correlation"]
        shown = "" if correlation is None else f"{correlation:.2f}"
        cells.append(
            [row["system"], str(accuracy["count"]), f"{100 * accuracy['value']:.1f}", interval, *shares, shown]
        )
    return header, cells


_TABLES = {
    "decode": _decode_table,
    "shared": _shared_table,
    "speculative": _speculative_table,
    "train": _train_table,
    "preferences": _preference_table,
}
