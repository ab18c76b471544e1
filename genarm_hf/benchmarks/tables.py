"""Rows of a suite as tables of text, for a terminal or a page."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]
Table = tuple[list[str], list[list[str]]]
"""Names of the columns, and their cells."""


def tables(suite: str, rows: Rows) -> list[Table]:
    """The tables of a suite, from its rows."""
    return [table for table in _TABLES[suite](rows) if table[1]]


def _spread(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.3f} ({value['low']:.3f}-{value['high']:.3f})"


def _names(rows: Rows, key: str) -> list[str]:
    """Names under `key` of any row, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.get(key) or ()))


def _decode(rows: Rows) -> Iterable[Table]:
    names = _names(rows, "tokens_per_second")
    header = ["model", "batch", "mode", *(f"{name} tok/s" for name in names), "of physical sum", "asked"]
    cells = []
    for row in rows:
        speeds = [f"{row['tokens_per_second'][name]:.0f}" for name in names]
        case = [row["shape"], str(row["batch"]), row["cache"]]
        cells.append([*case, *speeds, _spread(row["of_physical_sum"]), str(row["asked"])])
    yield header, cells


def _shared(rows: Rows) -> Iterable[Table]:
    names = _names(rows, "step_of_base")
    case = ["model", "batch", "arms", "dtype", "mode"]

    def where(row: dict[str, Any]) -> list[str]:
        return [row["shape"], str(row["batch"]), str(row["reward_models"]), row["dtype"], row["cache"]]

    for what in ("step", "call"):
        header = [*case, "base ms a step", *(f"{what}: {name}" for name in names), "asked of a step"]
        yield (
            header,
            [
                [
                    *where(row),
                    f"{row['base_ms_per_step']:.1f}",
                    *(_spread(row[f"{what}_of_base"].get(name)) for name in names),
                    "" if row["asked"] is None else str(row["asked"]),
                ]
                for row in rows
            ],
        )
    yield (
        [*case, "prompt", "to the first token: one pass", "separate"],
        [
            [*where(row), length, _spread(ratios["one pass"]), _spread(ratios["separate"])]
            for row in rows
            for length, ratios in row["prompt_of_base"].items()
        ],
    )


def _speculative(rows: Rows) -> Iterable[Table]:
    header = ["draft", "decoding", "alpha", "length of drafts", "base ms/token", "base / draft", "drafted a round"]
    header += ["tokens/base forward", "acceptance", "token by token / unguided", "speculative / unguided", "asked"]
    yield (
        header,
        [
            [
                row["draft"],
                "sampling" if row["sampling"] else "greedy",
                f"{row['alpha']:g}",
                row["policy"],
                f"{row['base_ms_per_token']:.1f}",
                "" if row["base_of_draft"] is None else f"{row['base_of_draft']['median']:.1f}",
                f"{row['drafted_per_round']:.1f}",
                f"{row['tokens_per_base_forward']:.2f}",
                f"{100 * row['acceptance']:.0f} %",
                _spread(row["guided_of_base"]),
                _spread(row["speculative_of_base"]),
                str(row["asked"]),
            ]
            for row in rows
        ],
    )


def _scaling(rows: Rows) -> Iterable[Table]:
    for axis in dict.fromkeys(row["axis"] for row in rows):
        here = [row for row in rows if row["axis"] == axis]
        yield _memory(here) if axis == "memory" else _along(axis, here)


def _along(axis: str, rows: Rows) -> Table:
    names = _names(rows, "of_base")
    header = ["model", axis, "base ms a step", "times the first", *(f"{name} / base" for name in names)]
    first = {row["shape"]: row["base_ms"] for row in reversed(rows)}
    return header, [
        [
            row["shape"],
            str(row["at"]),
            f"{row['base_ms']:.2f}",
            f"{row['base_ms'] / first[row['shape']]:.2f}",
            *(_spread(row["of_base"].get(name)) for name in names),
        ]
        for row in rows
    ]


def _memory(rows: Rows) -> Table:
    header = [
        "model",
        "guided by",
        "batch",
        "tokens",
        "base MB",
        "reward models MB",
        "caches MB",
        "peak MB",
        "peak / sum",
    ]
    return header, [
        [
            row["shape"],
            f"{row['reward_models']} {row['at']}" if row["reward_models"] else "nothing",
            str(row["batch"]),
            str(row["length"]),
            *(f"{row['expected'][part] / 1e6:.0f}" for part in ("base", "reward_models", "caches")),
            f"{row['peak'] / 1e6:.0f}",
            f"{row['peak_of_expected']:.2f}",
        ]
        for row in rows
    ]


def _train(rows: Rows) -> Iterable[Table]:
    header = ["model", "vocabulary", "batch", "system", "pairs/s", "times plain loop", "times TRL", "peak memory MB"]
    yield (
        header,
        [
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
        ],
    )


def _preferences(rows: Rows) -> Iterable[Table]:
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
    yield header, cells


_TABLES: dict[str, Callable[[Rows], Iterable[Table]]] = {
    "decode": _decode,
    "shared": _shared,
    "speculative": _speculative,
    "scaling": _scaling,
    "train": _train,
    "preferences": _preferences,
}
