"""Options of training: defaults, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from genarm_hf.training import ARMTrainingArguments

from .toys import arguments


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    args = ARMTrainingArguments(str(tmp_path))
    assert (args.beta, args.learning_rate, args.num_train_epochs) == (0.05, 5e-4, 1)
    assert (args.margin, args.preference_label_smoothing, args.overlong_responses) == (0, 0, "error")
    assert (args.loss_type, args.length_normalize, args.score_margin) == ("sigmoid", False, 0)
    assert args.subtract_reference is False
    assert args.report_to == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0}, "`beta` must be a positive number, got 0"),
        ({"beta": -1.0}, "`beta`"),
        ({"beta": float("nan")}, "`beta`"),
        ({"beta": "0.1"}, "`beta`"),
        ({"beta": None}, "`beta`"),
        ({"margin": float("inf")}, "`margin` must be a finite number, got inf"),
        ({"preference_label_smoothing": 0.5}, r"`preference_label_smoothing` must be a number in \[0, 0.5\).*got 0.5"),
        ({"preference_label_smoothing": -0.1}, "`preference_label_smoothing`"),
        ({"label_smoothing_factor": 0.1}, "set `preference_label_smoothing`"),
        ({"loss_type": "ipo"}, r"`loss_type` must be one of \('sigmoid', 'hinge'\), got 'ipo'"),
        ({"loss_type": "hinge", "preference_label_smoothing": 0.1}, "`preference_label_smoothing` .* hinge"),
        ({"score_margin": -1.0}, "`score_margin` must be a finite number of at least 0, got -1.0"),
        ({"score_margin": float("nan")}, "`score_margin`"),
        ({"max_length": 1}, "`max_length` must leave room"),
        ({"max_length": "long"}, "`max_length` must leave room.*got 'long'"),
        ({"overlong_responses": "cut"}, "`overlong_responses` must be 'error' or 'drop', got 'cut'"),
        ({"overlong_prompts": "cut"}, "`overlong_prompts` must be 'truncate' or 'drop', got 'cut'"),
        ({"max_tokens_per_batch": "all"}, "`max_tokens_per_batch` must be at least 1, got 'all'"),
        ({"max_tokens_per_batch": 0}, "`max_tokens_per_batch` must be at least 1, got 0"),
        ({"accelerator_config": {"dispatch_batches": True}}, "must not set `dispatch_batches=True`"),
        ({"include_for_metrics": ["inputs"]}, "`include_for_metrics` must not contain 'inputs'"),
        ({"prompt_template": "User:"}, "`prompt_template` must be a format string with '{prompt}'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_command_line(tmp_path: Path) -> None:
    line = [
        "--output_dir",
        str(tmp_path),
        "--beta",
        "0.1",
        "--preference_label_smoothing",
        "0.2",
        "--objective",
        "kind",
    ]
    (args,) = HfArgumentParser(ARMTrainingArguments).parse_args_into_dataclasses(line)
    assert (args.beta, args.preference_label_smoothing, args.objective, args.learning_rate) == (0.1, 0.2, "kind", 5e-4)
