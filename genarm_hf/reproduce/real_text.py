"""Real preferences (section 4): what ARMs and trajectory-level reward models of one backbone learn from the same pairs.

A folder of preference files is given (`--data`), such as HH-RLHF's harmless and helpful pairs. For each file the
backbone is a small language model pretrained on the chosen dialogues of the other files, and every pair is held out
once, by prompt. All weights are trained, with the same pairs, batches and learning rate:

- an ARM on summed log-probabilities, which is the reward that guides;
- an ARM on log-probabilities per token;
- a sequence classifier, the trajectory-level reward model.

Beside them stand the backbone before training, what training changed, always preferring the shorter (or longer)
response, and a logistic regression on words.
"""

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..benchmarks.preferences import by_length, by_words, small_language_model, train_and_read
from .figures import Panel, draw_panels
from .lab import Lab
from .samples import SAMPLES, Row, Sample, collect, summarise, verdict

TITLE = "Real preferences: held-out accuracy of ARMs and trajectory-level reward models"
CLAIM = "An ARM is trained on the same pairs as a trajectory-level reward model; its accuracy is not reported."

ARM, PER_TOKEN, TRAJECTORY, BEFORE, CHANGED, LENGTH, WORDS = SYSTEMS = (
    "ARM: summed log-probabilities",
    "ARM: log-probabilities per token",
    "trajectory RM",
    "backbone before training, summed",
    "ARM minus backbone, summed",
    "length alone",
    "logistic regression on words",
)
_RIGHT, _LEAD = "held-out accuracy", "accuracy minus that of the trajectory RM"
_TABLE, _LEADS = "Held-out accuracy", "ARMs against the trajectory RM, pair by pair"
_PATTERN = "*.jsonl.gz"
_RATE, _BATCH = 1e-3, 16

Array = NDArray[np.float64]


def skipped(lab: Lab) -> str | None:
    """Why there is nothing to measure; None where there is."""
    if lab.data is None:
        return "Skipped: real preference pairs are not part of this package. Name a folder of them by `--data DIR`."
    if len(files(lab)) < 2:
        return (
            f"Skipped: `--data` must have at least two files {_PATTERN}, for the backbone of each is pretrained on the "
            f"others; {str(lab.data)!r} has {len(files(lab))}."
        )
    return None


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Cross-validate on each file."""
    cells = [{"data": name, "fold": fold, **sizes(lab)} for name in files(lab) for fold in range(sizes(lab)["folds"])]
    samples = collect(output / SAMPLES, cells, lambda cell: _measure(lab, cell), progress)
    leads = [
        {"data": one["data"], "pair": one["pair"], "system": one["system"], _LEAD: one[_RIGHT] - one[TRAJECTORY]}
        for one in samples
        if one["system"] in (ARM, PER_TOKEN)
    ]
    return [
        *summarise(samples, ("data", "system"), (_RIGHT,), ("pair",), table=_TABLE),
        *summarise(leads, ("data", "system"), (_LEAD,), ("pair",), table=_LEADS),
    ]


def files(lab: Lab) -> dict[str, Path]:
    """Preference files by name."""
    return {path.name.split(".")[0]: path for path in sorted(Path(lab.data or ".").glob(_PATTERN))}


def sizes(lab: Lab) -> dict[str, int]:
    """Folds, most pairs of a file, most tokens of a pair, and passes of pretraining."""
    if lab.fast:
        return {"folds": 2, "pairs": 160, "tokens": 256, "pretraining": 1}
    return {"folds": 3, "pairs": 450, "tokens": 384, "pretraining": 2}


def answer(rows: Sequence[Row]) -> str:
    """ARMs against the trajectory-level reward model, in a sentence."""
    parts = [
        f"{row['where']['data']}, {row['where']['system']}: {verdict(row['values'][_LEAD], 'above', 'below')}"
        for row in rows
        if row["table"] == _LEADS
    ]
    return f"held-out accuracy against the trajectory RM's: {'; '.join(parts)}"


def findings(rows: Sequence[Row]) -> list[str]:
    """Who is right more often, and whether that is more than chance."""
    found = []
    for row in rows:
        if row["table"] == _LEADS:
            lead = row["values"][_LEAD]
            said = verdict(lead, "above", "below", "not told apart from")
            found.append(
                f"{row['where']['data']}, {row['where']['system']}: accuracy {said} that of the trajectory RM "
                f"({lead['mean']:+.1%}, {lead['low']:+.1%} to {lead['high']:+.1%}; {lead['count']} pairs)."
            )
    return found


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of accuracies, a group a file."""
    panel = Panel("held-out pairs", "", "accuracy")
    for row in rows:
        if row["table"] == _TABLE:
            bar = (row["where"]["data"], row["values"][_RIGHT])
            panel.lines.setdefault(row["where"]["system"], []).append(bar)
    draw_panels([panel], path, width=7.0)


# ---------------------------------------------------------------------- measuring


def _measure(lab: Lab, cell: Mapping[str, Any]) -> Iterator[Sample]:
    """Every system's judgement of the pairs of a fold."""
    from ..training.preferences import folds_by_prompt

    with contextlib.redirect_stdout(io.StringIO()):  # trainers print their times
        model, tokenizer = _backbone(lab, cell)
        pairs = _pairs(files(lab)[cell["data"]], tokenizer, cell)
        train, held_out = list(folds_by_prompt(pairs, cell["folds"]))[cell["fold"]]
        found = {system: right(values) for system, values in _scores(model, tokenizer, train, held_out).items()}
    for number in range(len(held_out)):
        same = {"pair": f"{cell['fold']}-{number}", TRAJECTORY: found[TRAJECTORY][number]}
        yield from ({**same, "system": system, _RIGHT: values[number]} for system, values in found.items())


def _scores(model: Any, tokenizer: Any, train: Any, held_out: Any) -> dict[str, Array]:
    """What every system gives to the chosen and rejected responses that are held out, `(pairs, 2)`."""
    before, after, _ = train_and_read(copy.deepcopy(model), tokenizer, train, held_out, 0, _options(0.05))
    _, per_token, _ = train_and_read(copy.deepcopy(model), tokenizer, train, held_out, 0, _options(2.0, True))
    return {
        ARM: after,
        PER_TOKEN: per_token,
        TRAJECTORY: _trajectory(model, tokenizer, train, held_out),
        BEFORE: before,
        CHANGED: after - before,
        LENGTH: by_length(train, held_out),
        WORDS: by_words(train, held_out),
    }


def right(scores: Array) -> list[float]:
    """Whether the chosen response has the higher score; a tie is half right.

    Args:
        scores: `(pairs, 2)`, of chosen and rejected.
    """
    return ((1 + np.sign(scores[:, 0] - scores[:, 1])) / 2).tolist()


def _pairs(path: Path, tokenizer: Any, cell: Mapping[str, Any]) -> Any:
    """The first pairs of a file that are not longer than the cell says."""
    from ..training.preferences import load_preferences

    pairs = load_preferences(str(path))
    lengths = [
        max(len(tokenizer(row["prompt"] + row[name])["input_ids"]) for name in ("chosen", "rejected")) for row in pairs
    ]
    # a few tokens less, as prompt and response are also tokenised apart
    short = [place for place, length in enumerate(lengths) if length <= cell["tokens"] - 8]
    return pairs.select(short[: cell["pairs"]])


def _backbone(lab: Lab, cell: Mapping[str, Any]) -> tuple[Any, Any]:
    """A small language model of the chosen dialogues of the other files, with a tokenizer of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..training.preferences import fingerprint, load_preferences

    others = [load_preferences(str(path)) for name, path in files(lab).items() if name != cell["data"]]
    texts = [row["prompt"] + row["chosen"] for other in others for row in other]
    texts = texts[: cell["pairs"]]
    settings = {"texts": [fingerprint(other) for other in others], "number": len(texts), "passes": cell["pretraining"]}

    def make(draft: Path) -> None:
        for part in small_language_model(texts, epochs=cell["pretraining"]):
            part.save_pretrained(draft)

    folder = lab.trained("text-base", settings, make)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def _options(beta: float, length_normalize: bool = False) -> dict[str, Any]:
    """Of the training of an ARM."""
    own = {"beta": beta, "length_normalize": length_normalize, "max_tokens_per_batch": 4096}
    return {**own, "learning_rate": _RATE, "num_train_epochs": 1, "per_device_train_batch_size": _BATCH}


def _trajectory(model: Any, tokenizer: Any, train: Any, held_out: Any) -> Array:
    """Scores `(pairs, 2)` by a sequence classifier on a copy of the backbone."""
    from transformers import TrainingArguments

    from ..baselines.reward_training import train_trajectory_reward
    from ..baselines.trajectory_rewards import from_causal_lm

    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the head
        args = TrainingArguments(
            output_dir=scratch,
            learning_rate=_RATE,
            lr_scheduler_type="cosine",
            num_train_epochs=1,
            per_device_train_batch_size=_BATCH,
            seed=0,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        reward = train_trajectory_reward(from_causal_lm(model), train, tokenizer, args)
    columns = [reward.score(list(held_out["prompt"]), list(held_out[name])) for name in ("chosen", "rejected")]
    return torch.stack(columns, -1).double().numpy()
