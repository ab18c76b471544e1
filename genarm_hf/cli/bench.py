"""`genarm-hf bench`: speed, measured in a way that anyone can repeat."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import written_whole
from .files import check_figure
from .loading import find_device, load_base, quiet
from .parsing import CommandParser, UsageError, parse_numbers
from .text import table

SUITES = ("decode", "shared", "speculative", "scaling", "train", "preferences")
_MOST_THREADS = 1024  # more than any machine runs at once; the process would end where they cannot be started
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
    compile: bool = field(
        default=False, metadata={"help": "static cache and compiled forwards (suites decode, shared)"}
    )
    shapes: str = field(default="", metadata={"help": "only these shapes, such as 1M,15M or 1B", "metavar": "S,S"})
    axes: str = field(
        default="",
        metadata={"help": "only these of length, reward models, batch, memory (suite scaling)", "metavar": "A,A"},
    )
    lengths: str = field(
        default="", metadata={"help": "contexts, such as 1024,32768 (suite scaling)", "metavar": "N,N"}
    )
    policies: bool = field(default=False, metadata={"help": "compare lengths of drafts (suite speculative)"})
    output: str = field(default="", metadata={"help": "also write the numbers to this json file", "metavar": "FILE"})
    figure: str = field(
        default="",
        metadata={"help": "draw them into this file: png, svg, pdf (suites of decoding)", "metavar": "FILE"},
    )
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
            "speculative: drafts by a trained reward model, by a small base that it guides, or looked up in the text; "
            "scaling: long contexts, many reward models, large batches, memory; train: training steps; "
            "preferences: what is learned from --data, by cross-validation",
        ),
    )


def run(options: BenchOptions) -> None:
    """Run a suite and print its table."""
    _check(options)
    import torch

    from ..benchmarks.tables import tables
    from ..benchmarks.timing import environment

    torch.set_num_threads(options.threads)
    with quiet():
        rows: list[dict[str, Any]] = []
        for row in _rows(options):
            rows.append(row)
            _write(options, rows)  # a suite may take an hour, and what it has found is not to be lost
        for header, cells in tables(options.suite, rows):
            print(table(header, cells), end="\n\n")
        print("  ".join(f"{key} {value}" for key, value in environment().items()))
        _draw(options, rows)


def _write(options: BenchOptions, rows: list[dict[str, Any]]) -> None:
    """The json file, where asked for."""
    if not options.output:
        return
    from ..benchmarks.timing import environment

    report = {"suite": options.suite, "environment": environment(), "rows": rows}
    with written_whole(Path(options.output)) as draft:
        draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _draw(options: BenchOptions, rows: list[dict[str, Any]]) -> None:
    """The figure, where asked for."""
    if not options.figure:
        return
    from ..evaluation.plots import plot_benchmark

    with written_whole(Path(options.figure)) as draft:
        plot_benchmark(options.suite, rows, draft)
    print(f"Figure: {options.figure}")


_PREFERENCES = ("data", "texts", "model", "folds", "beta", "learning_rate", "epochs", "length_normalize")
# suites that an option is for; elsewhere it would be ignored without a word
_ONLY = {
    "compile": ("decode", "shared"),
    "axes": ("scaling",),
    "lengths": ("scaling",),
    "policies": ("speculative",),
    "figure": ("decode", "shared", "speculative", "scaling"),
    **dict.fromkeys(_PREFERENCES, ("preferences",)),
}


def _check(options: BenchOptions) -> None:
    """Everything that can be wrong before anything runs."""
    if options.suite not in SUITES:
        raise UsageError(f"bench: {options.suite!r} is no suite; the suites are {', '.join(SUITES)}.")
    defaults = {one.name: one.default for one in fields(BenchOptions)}
    for name, suites in _ONLY.items():
        if getattr(options, name) != defaults[name] and options.suite not in suites:
            option = name.replace("_", "-")
            raise UsageError(f"bench: `--{option}` is for {' and '.join(suites)}, not for {options.suite}.")
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
    if options.threads > _MOST_THREADS:
        raise UsageError(f"bench: `--threads` must be at most {_MOST_THREADS}, got {options.threads}.")
    options.device = str(find_device(options.device))
    _axes(options)
    _lengths(options)
    _check_files(options)


def _check_files(options: BenchOptions) -> None:
    for name in ("output", "figure"):
        path = Path(getattr(options, name))
        if getattr(options, name) and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"bench: `--{name}` must be a file in a folder that is there, got {str(path)!r}.")
    if options.figure:
        check_figure(options.figure)


def _axes(options: BenchOptions) -> list[str]:
    """The axes asked for; none where all are."""
    axes = [axis.strip() for axis in options.axes.split(",") if axis.strip()]
    if not axes:
        return []
    from ..benchmarks.scaling import AXES

    for axis in axes:
        if axis not in AXES:
            raise UsageError(f"bench: `--axes` are among {', '.join(AXES)}, got {axis!r}.")
    return axes


def _lengths(options: BenchOptions) -> list[int]:
    """The contexts asked for, ascending; none where the suite's own are."""
    lengths = parse_numbers("--lengths", options.lengths) if options.lengths else []
    if any(length < 2 or length != int(length) for length in lengths):
        raise UsageError(f"bench: `--lengths` must be whole numbers of at least 2, got {options.lengths!r}.")
    return sorted({int(length) for length in lengths})


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
    from tqdm import tqdm

    from ..benchmarks import decode, scaling, shared, speculative, train

    suites = {"decode": decode, "shared": shared, "speculative": speculative, "scaling": scaling, "train": train}
    module: Any = suites[options.suite]
    measure = getattr(module, f"bench_{options.suite}")
    cases, extra = _cases(options, module), _extra(options, module)
    with tqdm(desc="runs", unit="run", leave=False) as bar:
        yield from measure(cases, repeats=options.repeats, device=options.device, progress=bar.update, **extra)


def _cases(options: BenchOptions, module: Any) -> list[tuple]:
    from ..benchmarks.shapes import SHAPES

    wanted = [shape for shape in options.shapes.split(",") if shape]
    cases = [case for case in module.CASES if not wanted or case[0] in wanted]
    if not cases and options.suite != "speculative":  # shapes that are too large for a test of everything
        cases = [(shape, *module.CASES[0][1:]) for shape in wanted if shape in SHAPES]
    if not cases:
        raise UsageError(f"bench: no case of {options.suite} has the shape {options.shapes!r}.")
    return cases


def _extra(options: BenchOptions, module: Any) -> dict[str, Any]:
    """Arguments that not every suite has, or that replace the suite's own."""
    import torch

    extra: dict[str, Any] = {"compiled": True} if options.compile else {}
    if options.dtype:
        extra["dtype"] = getattr(torch, options.dtype)
    if options.policies:
        extra |= {"policies": module.POLICIES, "alphas": module.POLICY_ALPHAS}
    return extra | {name: value for name, value in (("axes", _axes(options)), ("lengths", _lengths(options))) if value}
