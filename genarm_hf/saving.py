"""What surrounds saving a reward model: a directory that cannot be misread, and people's words in its card."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import logging

from .adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .configuration_genarm import GenARMConfig
from .loading import INDEX, WEIGHTS, Repository
from .model_card import CARD, RECORD

logger = logging.get_logger(__name__)

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def check_target(directory: Path, kwargs: dict[str, Any]) -> None:
    """Refuse a target that is a file, and the pickle format.

    Raises:
        ValueError: as said.
    """
    if directory.is_file():
        raise ValueError(f"`save_directory` must be a directory, and {str(directory)!r} is a file.")
    if kwargs.get("safe_serialization", True) is False:
        raise ValueError(
            "`safe_serialization=False` asks for a pickle file, which can run code when read. Leave it out: "
            "safetensors it is."
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether every rank holds a part of the weights, and has to take part in gathering them."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def stale_weights(directory: Path, is_adapter: bool) -> list[Path]:
    """Files that an earlier reward model left in a directory, and that a new one of the other kind has to remove.

    Adapter and full weights in one directory would be taken for one another.

    Args:
        directory: where a reward model is about to be saved.
        is_adapter: whether it is an adapter; else it has full weights.

    Raises:
        ValueError: the files are another model's, which nobody asked to remove.
    """
    patterns = ("model*.safetensors", INDEX) if is_adapter else (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    files = [file for pattern in patterns for file in directory.glob(pattern)]
    if not files:
        return []
    fields = Repository(str(directory)).json("config.json")
    if fields is None or fields.get("model_type") != GenARMConfig.model_type:
        this, other = ("an adapter", "full weights") if is_adapter else ("full weights", "an adapter")
        raise ValueError(
            f"`save_directory` {str(directory)!r} holds {other} of another model ({files[0].name}), and this reward "
            f"model is {this}: the two could not be told apart. Choose another directory."
        )
    return files


@contextmanager
def only_new_weights(directory: Path) -> Iterator[None]:
    """Save full weights in one file over several, or the other way round: left-over files would be read first."""
    (directory / INDEX).unlink(missing_ok=True)
    yield
    index = directory / INDEX
    written = {WEIGHTS}
    if index.is_file():
        written = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for file in directory.glob("model*.safetensors"):
        if file.name not in written and (file.name == WEIGHTS or _SHARD.fullmatch(file.name)):
            file.unlink()


@contextmanager
def card_kept(directory: Path) -> Iterator[None]:
    """Keep a directory's card as it is: PEFT writes one of its own over whatever is there."""
    card = directory / CARD
    before = card.read_bytes() if card.is_file() else None
    yield
    if before is not None:
        card.write_bytes(before)
    elif card.is_file():
        card.unlink()


def fetch_card(api: Any, repo_id: str, revision: str | None, directory: Path) -> None:
    """The card that a hub repository has now, and the record of the training, so that their text is kept."""
    for name in (CARD, RECORD):
        try:
            shutil.copyfile(api.hf_hub_download(repo_id, name, revision=revision), directory / name)
        except Exception as error:  # none there yet, or it cannot be read: there is no text to keep
            logger.info(f"{repo_id} has no {name} yet: {error}")
