"""`genarm-hf evaluate`: what reward models make of held-out preference pairs, side by side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..files import written_whole
from .files import check_figure, check_place
from .loading import find_device, load_judge, load_tokenizer, look_at, quiet
from .parsing import CommandParser, UsageError
from .text import paragraph, table

_ORDINALS = ("shortest", "second", "third", "longest")


@dataclass
class EvaluateOptions:
    """What may be asked for."""

    data: str = field(
        metadata={"help": "preference pairs: hub name, json, jsonl, parquet or csv file", "metavar": "SOURCE"}
    )
    reward_model: list[str] = field(
        default_factory=list,
        metadata={"help": "a reward model: folder or hub name; may be repeated", "metavar": "DIR", "action": "append"},
    )
    tuned_model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "a model tuned on preferences (DPO), with its --reference-model; may be repeated",
            "metavar": "DIR",
            "action": "append",
        },
    )
    reference_model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "what it was tuned from: its rewards are log pi_tuned - log pi_reference; one for all, or one each",
            "metavar": "DIR",
            "action": "append",
        },
    )
    objective: str | None = field(
        default=None, metadata={"help": "which of the data's preferences counts: better, safer, ...", "metavar": "NAME"}
    )
    split: str | None = field(
        default=None, metadata={"help": "split of the data (default: of several, test or validation)", "metavar": "S"}
    )
    max_pairs: int | None = field(default=None, metadata={"help": "only the first N pairs", "metavar": "N"})
    skip_bad_rows: bool = field(default=False, metadata={"help": "leave bad rows out and say how many"})
    beta: float | None = field(
        default=None,
        metadata={"help": "inverse temperature of the predicted preferences (default: each model's)", "metavar": "B"},
    )
    length_normalize: bool = field(
        default=False, metadata={"help": "rewards per token, for models that were trained so"}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "most tokens of prompt and response (default: the model's)", "metavar": "N"}
    )
    max_tokens_per_batch: int = field(default=4096, metadata={"help": "most tokens of a forward", "metavar": "N"})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "precision of the weights; auto: as they are stored"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, cuda:1, mps; auto: the fastest there is"})
    output: str | None = field(
        default=None, metadata={"help": "also write the numbers to this json file", "metavar": "FILE"}
    )
    figure: str | None = field(
        default=None, metadata={"help": "draw the calibration into this file (png, svg, pdf)", "metavar": "FILE"}
    )


@dataclass(frozen=True)
class _Judge:
    """A column of the table: a reward model, or a tuned model beside what it was tuned from."""

    option: str
    name: str
    reference: str | None = None


def parser() -> CommandParser:
    """The command line of `genarm-hf evaluate`."""
    return CommandParser(
        EvaluateOptions,
        "evaluate",
        "Compare reward models with people on held-out preference pairs: accuracy, how much of it is only length, "
        "calibration, margins. Models stand side by side.",
    )


def run(options: EvaluateOptions) -> None:
    """Load the data, then one model after the other; print a table."""
    judges = _judges(options)
    _check(options)
    from ..training.preferences import HELD_OUT_SPLITS, load_preferences

    with quiet():
        tokenizers = [_tokenizer(judge) for judge in judges]
    choice: Any = {"split": options.split, "prefer": HELD_OUT_SPLITS, "skip_bad_rows": options.skip_bad_rows}
    pairs = load_preferences(options.data, options.objective, **choice)
    if options.max_pairs is not None:
        pairs = pairs.select(range(min(options.max_pairs, len(pairs))))
    print(f"{len(pairs)} pairs of {options.data}")
    names = _names(judges)
    with quiet():
        reports = {
            name: _evaluate(judge, tokenizer, pairs, options, name)
            for name, judge, tokenizer in zip(names, judges, tokenizers, strict=True)
        }
    print(table(["", *names], rows(list(reports.values()))))
    print("\n" + paragraph(_advice(list(reports.values()))))
    _write(options, judges, reports)


def _judges(options: EvaluateOptions) -> list[_Judge]:
    tuned, references = options.tuned_model, options.reference_model
    if not options.reward_model and not tuned:
        raise UsageError("`--reward-model` is missing; name at least one folder or hub name.")
    if len(references) not in ({1, len(tuned)} if tuned else {0}):
        raise UsageError(
            f"`--reference-model` must be given once, or once for each `--tuned-model`; got {len(references)} for "
            f"{len(tuned)} tuned models."
        )
    if len(references) == 1:
        references = references * len(tuned)
    return [
        *(_Judge("--reward-model", name) for name in options.reward_model),
        *(_Judge("--tuned-model", *both) for both in zip(tuned, references, strict=True)),
    ]


def _check(options: EvaluateOptions) -> None:
    """Everything that can be wrong before anything is loaded."""
    for name, least in (("max_pairs", 1), ("max_length", 2), ("max_tokens_per_batch", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"`--{name.replace('_', '-')}` must be at least {least}, got {value}.")
    if options.beta is not None and not 0 < options.beta < float("inf"):
        raise UsageError(f"`--beta` must be a positive number, got {options.beta}.")
    for name in ("output", "figure"):
        path = getattr(options, name)
        if path is not None and Path(path).is_dir():
            raise UsageError(f"`--{name}` must be a file, and {path!r} is a folder.")
        if path is not None:
            check_place(f"--{name}", path)
    if options.figure is not None:
        check_figure(options.figure)
    find_device(options.device)


def _tokenizer(judge: _Judge) -> Any:
    """The judge's tokenizer. Both of its models are looked for, so that a wrong name is told before any is loaded."""
    look_at([judge.name], judge.option)
    tokenizer = load_tokenizer(judge.option, judge.name)
    if judge.reference is not None:
        look_at([judge.reference], "--reference-model")
        load_tokenizer("--reference-model", judge.reference)
    return tokenizer


def _names(judges: Sequence[_Judge]) -> list[str]:
    """Titles of the columns: the last part of each name, or all of it where that says too little."""
    marks = [" (implicit)" if judge.reference else "" for judge in judges]
    short = [(Path(judge.name).name or judge.name) + mark for judge, mark in zip(judges, marks, strict=True)]
    long = [judge.name + mark for judge, mark in zip(judges, marks, strict=True)]
    titles = [full if short.count(title) > 1 else title for full, title in zip(long, short, strict=True)]
    return [f"{title} #{place}" if titles.count(title) > 1 else title for place, title in enumerate(titles, 1)]


def _evaluate(judge: _Judge, tokenizer: Any, pairs: Any, options: EvaluateOptions, title: str) -> dict[str, Any]:
    """Numbers of one judge; its models are gone when this returns."""
    from tqdm.auto import tqdm

    from ..evaluation.preferences import evaluate_preferences

    reference, models = None, 1
    if judge.reference is not None:
        reference, models = load_judge("--reference-model", judge.reference, options.dtype, options.device), 2
    base = None if reference is None else reference.causal_lm
    model = load_judge(judge.option, judge.name, options.dtype, options.device, base, judge.reference or "")
    with tqdm(total=len(pairs) * models, unit="pair", desc=title) as bar:
        report = evaluate_preferences(
            model,
            pairs,
            tokenizer,
            reference=reference,
            beta=options.beta,
            max_length=options.max_length,
            max_tokens_per_batch=options.max_tokens_per_batch,
            length_normalize=options.length_normalize,
            drop_overlong=True,
            progress=bar.update,
        )
    return report.to_dict()


# ---------------------------------------------------------------------- what is printed


def rows(reports: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The table's rows: a title, and a cell for each of `PreferenceReport.to_dict()`."""
    quarters = max(len(report["by_mean_length"]) for report in reports)
    lines = {
        "pairs": [str(report["pairs"]) for report in reports],
        "left out (too long)": [str(report["dropped"]) for report in reports],
        "accuracy": [_share(report["accuracy"]) for report in reports],
    }
    for name in ("shorter", "similar", "longer"):
        title = "of similar length" if name == "similar" else name
        lines[f"  chosen is {title}"] = [_share(report["by_length"][name]) for report in reports]
    for place in range(quarters):
        title = f"  {_ORDINALS[place]} quarter" if quarters == len(_ORDINALS) else f"  length group {place + 1}"
        lines[title] = [_quarter(report["by_mean_length"], place) for report in reports]
    lines |= {
        "prefer the longer": [_share(report["length_only"]["longer"]) for report in reports],
        "prefer the shorter": [_share(report["length_only"]["shorter"]) for report in reports],
        "beta": [_number(report["beta"], "g") for report in reports],
        "calibration error": [_calibration(report, "error", ".3f") for report in reports],
        "overconfidence": [_calibration(report, "overconfidence", "+.3f") for report in reports],
        "margin, mean (nats)": [_number(report["margins"]["mean"], "+.2f") for report in reports],
        "margin, median": [_number(report["margins"]["median"], "+.2f") for report in reports],
        "length correlation": [_number(report["length_correlation"], "+.2f") for report in reports],
        "  of ranks": [_number(report["length_rank_correlation"], "+.2f") for report in reports],
    }
    if not any(report["dropped"] for report in reports):
        del lines["left out (too long)"]
    width = max(map(len, lines))
    return [[title.ljust(width), *cells] for title, cells in lines.items()]


def _share(accuracy: dict[str, Any] | None) -> str:
    if accuracy is None:
        return "no pairs"
    value, low, high = (f"{100 * accuracy[name]:.1f}" for name in ("value", "low", "high"))
    return f"{value} % [{low}, {high}] of {accuracy['count']}"


def _quarter(buckets: Sequence[dict[str, Any]], place: int) -> str:
    return _share(buckets[place]["accuracy"]) if place < len(buckets) else "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _calibration(report: dict[str, Any], name: str, form: str) -> str:
    return _number(None if report["calibration"] is None else report["calibration"][name], form)


def _advice(reports: Sequence[dict[str, Any]]) -> str:
    text = "Intervals are Wilson's, 95 %. Quarters are of the mean length of the two responses, in tokens."
    if any(report["beta"] is None for report in reports):
        text += " A model that does not say its beta predicts no preferences: pass --beta to see its calibration."
    return text


def _write(options: EvaluateOptions, judges: Sequence[_Judge], reports: dict[str, dict[str, Any]]) -> None:
    """The json file and the figure, where asked for."""
    if options.output is not None:
        models = [
            {"title": title, "model": judge.name, "reference": judge.reference} | report
            for judge, (title, report) in zip(judges, reports.items(), strict=True)
        ]
        asked = {name: getattr(options, name) for name in ("data", "objective", "split", "max_pairs")}
        with written_whole(Path(options.output)) as draft:
            draft.write_text(json.dumps(asked | {"models": models}, indent=2) + "\n", encoding="utf-8")
        print(f"\nNumbers: {options.output}")
    if options.figure is not None:
        from ..evaluation.plots import plot_reliability

        if all(report["calibration"] is None for report in reports.values()):
            print("\nNo figure was drawn: no model says its beta. Pass --beta.")
            return
        with written_whole(Path(options.figure)) as draft:
            plot_reliability(reports, draft)
        print(f"Figure: {options.figure}")
