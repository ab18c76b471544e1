"""A figure is drawn from rows alone; without matplotlib the error says what to install."""

import sys

import pytest

from genarm_hf.evaluation import Interval
from genarm_hf.evaluation.plots import (
    plot_bars,
    plot_benchmark,
    plot_guidance,
    plot_methods,
    plot_pareto,
    plot_reliability,
)
from genarm_hf.training.metrics import preference_summary


def row(alpha: float) -> dict:
    reward = {"mean": alpha, "low": alpha - 0.5, "high": alpha + 0.5}
    return {"alpha": alpha, "oracle_reward": reward, "kl": {"mean": 2 * alpha}}


ROWS = [row(1.0), row(0.0)]


def test_figure_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    plot_guidance(ROWS, tmp_path / "rewards.png", "helpful")
    assert (tmp_path / "rewards.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_is_left_alone(tmp_path):
    pytest.importorskip("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    plot_guidance(ROWS, tmp_path / "rewards.svg")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'genarm-hf\[plot\]'"):
        plot_guidance(ROWS, tmp_path / "rewards.png")
    assert not list(tmp_path.iterdir())


def report(beta: float | None = 0.5) -> dict:
    return preference_summary([-1.0, -4.0, -2.0], [-3.0, -2.0, -2.5], [3, 4, 5], [4, 4, 4], beta=beta).to_dict()


def test_calibration_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot_reliability({"one": report(), "two": report(None), "three": report(2.0)}, tmp_path / "calibration.svg")
    text = (tmp_path / "calibration.svg").read_text()
    assert "one (ECE" in text and "three (ECE" in text and "two (ECE" not in text


def test_no_calibration_no_figure(tmp_path):
    with pytest.raises(ValueError, match="no calibration to draw"):
        plot_reliability({"one": report(None)}, tmp_path / "calibration.png")


def ratio(median: float) -> dict:
    return {"median": median, "low": median - 0.1, "high": median + 0.1}


def benchmark_rows(suite: str) -> list[dict]:
    """Two rows of a suite, with everything that a figure looks at."""
    if suite == "decode":
        row = {"shape": "1M", "batch": 1, "of_base": {"arm": ratio(1), "guided": ratio(2)}, "asked": 0.9}
        return [row | {"physical_of_base": ratio(2)}, row | {"batch": 16, "physical_of_base": ratio(1.9)}]
    if suite == "shared":
        row = {"shape": "98M", "batch": 1, "reward_models": 1, "step_of_base": {"one pass": ratio(1.3)}, "asked": 1.2}
        return [row, row | {"asked": None, "step_of_base": {"one pass": ratio(1.3), "separate": ratio(2.2)}}]
    if suite == "speculative":
        row = {"draft": "small base", "sampling": True, "alpha": 1.0, "policy": "default", "asked": 0.75}
        row |= {"guided_of_base": ratio(1.1), "speculative_of_base": ratio(0.3)}
        return [row, row | {"policy": "5 tokens"}]
    row = {"shape": "15M", "base_ms": 12.0, "of_base": {"one pass": ratio(1.2), "own weights": ratio(2)}}
    memory = {"at": "one pass", "reward_models": 1, "expected": {"base": 1, "reward_models": 2, "caches": 3}, "peak": 8}
    curves = [row | {"axis": axis, "at": at} for axis in ("length", "reward models", "batch") for at in (1, 2, 4)]
    return [*curves, {"axis": "memory", **memory}, {"axis": "memory", **memory, "at": "none", "reward_models": 0}]


@pytest.mark.parametrize(
    ("suite", "shown"),
    [
        ("decode", ["guided", "1M, batch 16", "asked: at most"]),
        ("shared", ["one pass", "separate", "asked: at most"]),
        ("speculative", ["with drafts", "alpha 1, 5 tokens"]),
        ("scaling", ["15M: base", "own weights", "measured peak", "base alone"]),
    ],
)
def test_benchmarks_are_drawn_from_rows_alone(tmp_path, suite, shown):
    pytest.importorskip("matplotlib")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_benchmark(suite, benchmark_rows(suite), tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert [label for label in shown if label not in text] == []


# ---------------------------------------------------------------------- methods side by side


def settings(*methods: str) -> list[dict]:
    """Three settings of each method, along curves that cross."""
    return [
        {
            "method": method,
            "kl": {"mean": kl, "low": kl - 0.1, "high": kl + 0.1},
            "reward": {"mean": kl ** (1 / (place + 1)), "low": 0.9 * kl ** (1 / (place + 1)), "high": kl + 1},
            "label": f"alpha {kl:g}" if place == 0 else None,
        }
        for place, method in enumerate(methods)
        for kl in (1.0, 4.0, 9.0)
    ]


def svg(tmp_path, draw) -> str:
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(tmp_path / "figure.svg")
    return (tmp_path / "figure.svg").read_text()


def test_methods_carry_their_names_at_their_lines(tmp_path):
    rows = settings("GenARM", "ARGS", "best of n")
    text = svg(tmp_path, lambda path: plot_methods(rows, path, title="All", log_x=True, ylabel="oracle reward"))
    for shown in ("GenARM", "ARGS", "best of n", "alpha 4", "All", "oracle reward"):
        assert text.count(f">{shown}<") == 1, shown
    assert "legend" not in text


def test_labels_do_not_lie_on_each_other(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    from genarm_hf.evaluation import plots

    figure = plots._figure(7, 4.6)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    spots = [(0.5, 0.5), (0.51, 0.5), (0.5, 0.52), (0.98, 0.98), (0.97, 0.99), (0.02, 0.02)]
    plots._place_labels(figure, axes, [(f"method {i}", at, "black", 10) for i, at in enumerate(spots)])
    renderer = matplotlib.backends.backend_agg.FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert all(axes.bbox.contains(x, y) for box in boxes for x, y in (box.min, box.max))


def test_trade_offs_are_drawn_with_the_front(tmp_path):
    pytest.importorskip("moocore")
    rows = [
        {"method": method, "helpful": x * scale, "harmless": Interval((3 - x) * scale, 0, 4, 9)}
        for method, scale in (("GenARM", 1.0), ("soups", 0.8))
        for x in (0, 1, 2, 3)
    ]
    text = svg(tmp_path, lambda path: plot_pareto(rows, path, ("helpful", "harmless")))
    assert [shown for shown in ("GenARM", "soups", "helpful", "harmless") if f">{shown}<" not in text] == []


def test_bars_carry_their_numbers(tmp_path):
    bars = {"GenARM": {"mean": 0.61, "low": 0.55, "high": 0.7}, "ARGS": Interval(0.25, 0.2, 0.3, 10), "worse": -0.125}
    text = svg(tmp_path, lambda path: plot_bars(bars, path, label="win rate", title="Against DPO", reference=0.5))
    shown = ("GenARM", "ARGS", "worse", "0.61", "0.25", "-0.125", "win rate", "Against DPO")
    assert [one for one in shown if f">{one}<" not in text] == []


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`rows` is empty"):
        plot_methods([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="`bars` is empty"):
        plot_bars({}, tmp_path / "x.png")
