"""A figure is drawn from rows alone; without matplotlib the error says what to install."""

import sys

import pytest

from genarm_hf.evaluation.plots import plot_guidance, plot_reliability
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
