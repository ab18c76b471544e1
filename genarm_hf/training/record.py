"""What a model card tells of a training: its command, data and options, gathered without secrets."""

import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..model_card import TrainingRecord

OPTIONS = (
    "beta",
    "margin",
    "score_margin",
    "preference_label_smoothing",
    "loss_type",
    "length_normalize",
    "subtract_reference",
    "max_length",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "bf16",
    "fp16",
    "seed",
)
"""Options that make a training what it is."""

ADAPTER_OPTIONS = ("r", "lora_alpha", "lora_dropout", "target_modules")
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets")

_OFF: tuple[Any, ...] = (None, False, 0, -1)  # -1: no `max_steps`
_SECRET_WORD = r"(?:token(?!izer)|key|secret|password|credential|signature)"
_SECRET_NAME = re.compile(rf"[\w.-]*{_SECRET_WORD}[\w.-]*|sig", re.IGNORECASE)
_NAMED_SECRET = re.compile(rf"([\w.-]*{_SECRET_WORD}[\w.-]*|\bsig)=([^&#\s]+)", re.IGNORECASE)  # as in addresses
_SECRET_VALUE = re.compile(r"\b(?:(?:hf|sk|gh[opsur])[_-]|github_pat_)[A-Za-z0-9_-]{8,}")
_LOGIN = re.compile(r"(?<=://)[^/?#\s]+@")
_MASK = "***"


def training_record(
    args: Any,
    *,
    data: str | None = None,
    pairs: int | None = None,
    fingerprint: str | None = None,
    adapter: Any = None,
    seconds: float | None = None,
    held_out: Mapping[str, Any] | None = None,
    held_out_data: str | None = None,
    argv: Sequence[str] | None = None,
) -> TrainingRecord:
    """Gather what a model card tells.

    Args:
        args: the [`ARMTrainingArguments`]. Only `OPTIONS` are told, so that no token gets out.
        data: where the pairs came from.
        pairs: how many were trained on.
        fingerprint: hash of them, see `preferences.fingerprint`.
        adapter: the `peft.PeftConfig`, if there is one.
        seconds: time of training.
        held_out: `PreferenceSummary.to_dict()` on pairs that were not trained on.
        held_out_data: where those came from, if not from `data`.
        argv: the command line. None: the process's.
    """
    return TrainingRecord(
        command=command_line(argv),
        data=data and without_secrets(data),
        fingerprint=fingerprint,
        pairs=pairs,
        hyperparameters=_options(args, OPTIONS) | ({} if adapter is None else _options(adapter, ADAPTER_OPTIONS)),
        versions=versions(),
        seconds=seconds,
        held_out=None if held_out is None else dict(held_out),
        held_out_data=held_out_data and without_secrets(held_out_data),
    )


def command_line(argv: Sequence[str] | None = None) -> str | None:
    """The command line without the secrets in it; None where there is none (an interactive session).

    Values of options that are named after a token, key, secret or password are masked, and so is whatever looks like a
    token or like the login of an address.

    Args:
        argv: program and arguments. None: those of the process.

    Example:
        >>> command_line(["/usr/bin/genarm-hf", "train", "--hub-token", "hf_abcdefgh", "--data=pairs.csv"])
        "genarm-hf train --hub-token '***' --data=pairs.csv"
    """
    program, *arguments = sys.argv if argv is None else argv
    name = Path(program).name
    if name in ("", "-", "-c", "ipykernel_launcher.py"):
        return None
    return shlex.join(
        ["genarm-hf" if Path(program).parts[-2:] == ("cli", "__main__.py") else name, *_masked(arguments)]
    )


def _masked(arguments: Sequence[str]) -> list[str]:
    masked: list[str] = []
    secret = ""  # the name of the option whose value comes next, if that has to be kept
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if secret and not argument.startswith("--"):
            masked.append(_hidden(secret, argument))
        elif equals and _is_secret(name):
            masked.append(f"{name}={_hidden(name, value)}")
        else:
            masked.append(without_secrets(argument))
        secret = argument if argument.startswith("-") and not equals and _is_secret(argument) else ""
    return masked


def without_secrets(text: str) -> str:
    """Mask what looks like a token, like the login of an address, or like a signature or key in its query.

    Example:
        >>> without_secrets("https://me:word@host/x.csv?part=1&sig=abc")
        'https://***@host/x.csv?part=1&sig=***'
    """
    text = _NAMED_SECRET.sub(lambda found: f"{found[1]}={_hidden(found[1], found[2])}", text)
    return _LOGIN.sub(f"{_MASK}@", _SECRET_VALUE.sub(_MASK, text))


def _is_secret(name: str) -> bool:
    """Whether an option's name is one of a secret; an address is no name."""
    return _SECRET_NAME.fullmatch(name) is not None


def _hidden(name: str, value: str) -> str:
    """A count of tokens (`--max-tokens-per-batch 4096`) is no secret."""
    return value if "tokens" in name.lower() and value.isdigit() else _MASK


def versions() -> dict[str, str]:
    """Versions of python and of the packages that training runs on."""
    from .. import __version__

    found = {"python": platform.python_version(), "genarm-hf": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _options(holder: Any, names: Sequence[str]) -> dict[str, Any]:
    """Those that do something, as json holds them."""
    values = {name: getattr(holder, name, None) for name in names}
    modules = values.get("target_modules")
    if isinstance(modules, (set, list, tuple)):  # peft lists those of every layer
        values["target_modules"] = {_kind(module) for module in modules}
    return {name: _plain(value) for name, value in values.items() if name == "seed" or value not in _OFF}


def _kind(module: str) -> str:
    """A module's name without what holds it: `q_proj` of `layers.0.self_attn.q_proj`, `mlp.0` of `layers.3.mlp.0`."""
    parts = module.split(".")
    named = [place for place, part in enumerate(parts) if not part.isdigit()]
    return ".".join(parts[named[-1] :]) if named else module


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (set, frozenset, list, tuple)):
        return sorted(map(str, value))
    return value if isinstance(value, (int, float, str)) else str(value)
