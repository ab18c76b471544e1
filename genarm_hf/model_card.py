"""The model card of a saved reward model: metadata for the hub, a usage snippet that runs, how it was trained."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

CARD = "README.md"
RECORD = "training_record.json"

_BODY = """
# {title}

An autoregressive reward model ([GenARM](https://arxiv.org/abs/2410.08193)): its next-token log-probabilities are
rewards{objective}. It guides a frozen base model of the same vocabulary at decoding time, without any training of that
model.

| | |
|---|---|
| objective | {objective_name} |
| beta (training) | {beta} |
| alpha (default at decoding) | {alpha} |
| weights | {weights} |
| prompt template | {template} |

## Use

```python
{imports}

tokenizer = AutoTokenizer.from_pretrained({base!r})
model = AutoModelForCausalLM.from_pretrained({base!r})
{load}

inputs = tokenizer("Hello", return_tensors="pt")
output = model.generate(**inputs, reward_models=[arm], alpha={alpha}, max_new_tokens=32)
print(tokenizer.decode(output[0]))
```
"""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TASK = "Preference ranking"
_LESS_REFERENCE = (
    " Rewards are log-probabilities less those of the base before training, as it was trained on; guidance is by the "
    "log-probabilities themselves."
)
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16
_MARK = re.compile(r"\n<!-- genarm-hf wrote this card \(([0-9a-f]{16})\).*-->\n")
_MARK_TEXT = "\n<!-- genarm-hf wrote this card ({digest}) and writes it anew on every save, unless you edit it -->\n"


@dataclass(frozen=True)
class TrainingRecord:
    """How a reward model came about, as its card tells it. What is unknown is left out.

    Args:
        command: the command line, without secrets.
        data: where the pairs came from: hub id or file.
        fingerprint: hash of the pairs.
        pairs: how many were trained on.
        hyperparameters: options by name.
        versions: of python and packages, by name.
        seconds: time of training.
        held_out: how well it ranks pairs that it was not trained on: what `PreferenceSummary.to_dict()` gives.
        held_out_data: where those came from. None: from `data`.
    """

    command: str | None = None
    data: str | None = None
    fingerprint: str | None = None
    pairs: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    held_out: dict[str, Any] | None = None
    held_out_data: str | None = None


def write_model_card(
    config: Any, directory: Path, repo_id: str | None = None, training: TrainingRecord | None = None
) -> None:
    """Write `README.md` into a saved reward model.

    A card that people wrote or edited keeps its text; only its metadata is brought up to date. A card that this
    function wrote and nobody touched is written anew.

    Args:
        config: the reward model's [`GenARMConfig`].
        directory: the saved repository, weights included.
        repo_id: name on the hub; the directory where it has none yet.
        training: how these weights came about; kept beside them in `training_record.json`. None: what that file says,
            here or where the model was loaded from, if it was written for the same weights.
    """
    path = directory / CARD
    repo = repo_id or str(directory)
    if training is None:
        training = find_record(directory, getattr(config, "_name_or_path", None))
    if training is not None:
        _write_record(directory, training)
    previous = path.read_text(encoding="utf-8") if path.is_file() else None
    if previous is None or is_generated(previous):
        path.write_text(_generate(config, repo, training), encoding="utf-8")
    else:
        _update_metadata(path, previous, config, repo, training)


def is_generated(text: str) -> bool:
    """Whether a card is one of ours that nobody has edited since."""
    found = _MARK.search(text)
    return found is not None and found[1] == _digest(_MARK.sub("", text))


def marked(text: str) -> str:
    """A card of ours with the mark by which [`is_generated`] knows it."""
    return text + _MARK_TEXT.format(digest=_digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------- the record of the training


def find_record(directory: Path, origin: str | None = None) -> TrainingRecord | None:
    """The record of the weights in a directory: its own, or that of the directory they were loaded from."""
    weights = _weights_digest(directory)
    record = _read_record(directory / RECORD, weights)
    if record is None and origin:
        record = _read_record(Path(origin) / RECORD, weights)
    if record is None and (directory / RECORD).is_file():
        logger.warning(f"{directory / RECORD} is not of the weights beside it: the model card does without it.")
    return record


def _read_record(path: Path, weights: str) -> TrainingRecord | None:
    """A record of the weights; None where there is none, it is of other weights, or cannot be read."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("weights") != weights:
            return None
        record = TrainingRecord(**found)
        _training_sections(record)  # people may have edited it: a save must not fail over what cannot be shown
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.info(f"{path} could not be read: {error!r}")
        return None
    return record


def _write_record(directory: Path, record: TrainingRecord) -> None:
    text = json.dumps(asdict(record) | {"weights": _weights_digest(directory)}, indent=2)
    (directory / RECORD).write_text(text + "\n", encoding="utf-8")


def _weights_digest(directory: Path) -> str:
    """Tells weights from others that were trained differently, from samples of the files and not all of their bytes."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for place in range(_SAMPLES):
                file.seek(size * place // _SAMPLES)
                digest.update(file.read(min(_SAMPLE_BYTES, size // _SAMPLES + 1)))
    return digest.hexdigest()


# ---------------------------------------------------------------------- the card


def _generate(config: Any, repo: str, training: TrainingRecord | None) -> str:
    base = base_name(config)
    metadata = _metadata(config, base, repo, training).to_yaml()
    text = f"---\n{metadata}\n---\n{_body(config, repo, base or repo)}{_training_sections(training)}"
    return marked(text)


def _update_metadata(path: Path, text: str, config: Any, repo: str, training: TrainingRecord | None) -> None:
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(text)
    except Exception as error:  # people's own YAML: a save must not fail over it
        logger.warning(f"The metadata of {path} could not be read and stays as it is: {error}")
        return
    metadata = _metadata(config, base_name(config), repo, training)
    ours, theirs = metadata.to_dict(), card.data.to_dict()
    ours.pop("model-index", None)
    for key in {"tags", "datasets"} & ours.keys():
        ours[key] = list(dict.fromkeys([*_as_list(theirs.get(key)), *ours[key]]))
    for key, value in ours.items():
        setattr(card.data, key, value)
    if metadata.eval_results:
        others = [result for result in card.data.eval_results or [] if result.task_name != _TASK]
        card.data.eval_results = others + metadata.eval_results
        card.data.model_name = card.data.model_name or metadata.model_name
    card.save(path)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def base_name(config: Any) -> str | None:
    """The model that a reward model was trained from, as its configuration says."""
    adapter = config.adapter or {}
    return adapter.get("base_model_name_or_path") or getattr(config.text_config, "_name_or_path", None) or None


def _metadata(config: Any, base: str | None, repo: str, training: TrainingRecord | None) -> Any:
    from huggingface_hub import ModelCardData

    tags = ["genarm", "reward-model", "test-time-alignment", "arxiv:2410.08193"]
    extra = {key: value for key in ("objective", "beta", "alpha") if (value := getattr(config, key)) is not None}
    # the hub's schema takes ids, not directories: a local path would make the card invalid there
    hub_base = base if base and not is_path(base) else None
    relation = "adapter" if config.adapter else "finetune"
    source = training.data if training is not None else None
    results = _eval_results(training)
    return ModelCardData(
        base_model=hub_base,
        base_model_relation=relation if hub_base else None,
        library_name="genarm-hf",
        pipeline_tag="text-generation",
        tags=tags + ([config.objective] if config.objective else []),
        genarm=extra or None,
        datasets=[source] if _is_hub_id(source) else None,
        eval_results=results or None,
        model_name=Path(repo).name if results else None,
    )


def _eval_results(training: TrainingRecord | None) -> list[Any]:
    """Held-out figures in the form in which the hub shows them."""
    from huggingface_hub import EvalResult

    if training is None or training.held_out is None:
        return []
    source = training.held_out_data or training.data
    held_out = training.held_out
    values = {
        ("accuracy", "held-out pair accuracy"): held_out["accuracy"]["value"],
        ("calibration_error", "expected calibration error"): (held_out["calibration"] or {}).get("error"),
        ("length_correlation", "correlation of reward and length"): held_out["length_correlation"],
    }
    return [
        EvalResult(
            task_type="text-generation",
            task_name=_TASK,
            dataset_type=source if source and _is_hub_id(source) else "preference-pairs",
            dataset_name=_short(source) or "held-out preference pairs",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for (kind, name), value in values.items()
        if value is not None
    ]


def _is_hub_id(source: str | None) -> bool:
    # a file of that name is a file
    return source is not None and _HUB_ID.fullmatch(source) is not None and not Path(source).exists()


def _short(source: str | None) -> str | None:
    """A data set's name: a hub id as it is, and of a path, which is nobody else's, the file's name."""
    return source if source is None or _is_hub_id(source) else Path(source).name


def is_path(name: str) -> bool:
    """Whether a model's name is a folder's, and so nothing on the hub."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists() or name.count("/") > 1


def _body(config: Any, repo: str, base: str) -> str:
    adapter = config.adapter
    load = f"arm = AutoModel.from_pretrained({repo!r})"
    imports = "import genarm_hf  # pip install genarm-hf\n"
    imports += "from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer"
    if adapter:
        # its base is the model it guides here: held in memory once
        load = f"arm = AutoregressiveRewardModel.from_pretrained({repo!r}, base_model=model)"
        imports = "from genarm_hf import AutoregressiveRewardModel  # pip install genarm-hf\n"
        imports += "from transformers import AutoModelForCausalLM, AutoTokenizer"
    return _BODY.format(
        title=Path(repo).name,
        objective=f" for being **{config.objective}**" if config.objective else "",
        objective_name=config.objective or "not stated",
        beta="not stated" if config.beta is None else config.beta,
        alpha=1.0 if config.alpha is None else config.alpha,
        weights=f"{adapter['type']} adapter of {_code(adapter['base_model_name_or_path'])}" if adapter else "full",
        template=_code(repr(config.prompt_template)) if config.prompt_template else "none: prompts as they are",
        base=base,
        repo=repo,
        load=load,
        imports=imports,
    )


def _code(text: str | None) -> str:
    return "a model without a name" if text is None else "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def _training_sections(training: TrainingRecord | None) -> str:
    """What the card says of training and of held-out pairs; nothing where nothing is known."""
    if training is None:
        return ""
    sections = [_training_section(training)]
    if training.held_out is not None:
        source, less = training.held_out_data or training.data, bool(training.hyperparameters.get("subtract_reference"))
        sections.append(_held_out_section(training.held_out, source, less))
    return "".join(sections)


def _training_section(training: TrainingRecord) -> str:
    known = {
        "data": training.data and _code(_short(training.data)),
        "pairs": training.pairs,
        "fingerprint of the pairs (sha256)": training.fingerprint and _code(training.fingerprint[:16]),
        "time": None if training.seconds is None else _duration(training.seconds),
        "hyperparameters": _named(training.hyperparameters),
        "versions": _named(training.versions),
    }
    rows = [[name, str(value)] for name, value in known.items() if value]
    command = f"\n```bash\n{training.command}\n```\n" if training.command else ""
    return f"\n## Training\n{command}\n{_markdown(['', ''], rows)}"


def _held_out_section(held_out: Mapping[str, Any], source: str | None, less_reference: bool) -> str:
    by_length, length_only = held_out["by_length"], held_out["length_only"]
    rows = [
        ["accuracy", *_share(held_out["accuracy"])],
        ["where the chosen response is shorter", *_share(by_length["shorter"])],
        ["where both are about equally long", *_share(by_length["similar"])],
        ["where the chosen response is longer", *_share(by_length["longer"])],
        ["for comparison: always prefer the longer", *_share(length_only["longer"])],
        ["for comparison: always prefer the shorter", *_share(length_only["shorter"])],
    ]
    calibration, margins = held_out["calibration"], held_out["margins"]
    if calibration is not None:
        rows += [["expected calibration error", f"{calibration['error']:.3f}", "", ""]]
        rows += [["confidence less accuracy", f"{calibration['overconfidence']:+.3f}", "", ""]]
    rows += [["margin in nats, mean", f"{margins['mean']:+.2f}", "", ""]]
    rows += [["margin in nats, median", f"{margins['median']:+.2f}", "", ""]]
    for name, key in (("Pearson", "length_correlation"), ("Spearman", "length_rank_correlation")):
        value = held_out[key]
        said = "undefined: one of them does not vary" if value is None else f"{value:+.3f}"
        rows += [[f"correlation of reward and length ({name})", said, "", ""]]
    pairs = f"{held_out['accuracy']['count']} pairs" + (f" of {_code(_short(source))}" if source else "")
    table = _markdown(["", "", "95 % interval", "pairs"], rows)
    return (
        f"\n## Held-out preferences\n\nOn {pairs} that it was not trained on. Shares are of pairs whose chosen "
        f"response has the higher reward, ties as halves.{_LESS_REFERENCE if less_reference else ''}\n\n{table}"
    )


def _share(accuracy: Mapping[str, Any] | None) -> list[str]:
    if accuracy is None:
        return ["no such pairs", "", "0"]
    value, low, high = (f"{100 * accuracy[name]:.1f}" for name in ("value", "low", "high"))
    return [f"{value} %", f"{low} to {high} %", str(accuracy["count"])]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _named(values: Mapping[str, Any]) -> str:
    texts = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    return ", ".join(f"{name} {_code(str(text))}" for name, text in texts.items() if text is not None)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
