"""What a run is, as its manifest says it: settings, prompts, versions; and how another run differs."""

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

Row = dict[str, Any]

_PACKAGES = ("genarm-hf", "torch", "transformers", "peft", "numpy")
_SHOWN = 5  # differences in an error


def to_json(value: Any) -> str:
    """JSON as other programs read it: no `NaN`."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def to_bytes(value: Any) -> bytes:
    """JSON in UTF-8."""
    # halves of emojis, as broken input has them, must not end a job
    return to_json(value).encode("utf-8", "surrogatepass")


def manifest_of(rows: Sequence[Row], **fields: Any) -> Row:
    """How a file came about; as json reads it, to be compared with what was read.

    Args:
        rows: the prompts with their columns.
        **fields: what else decides the replies.
    """
    content = hashlib.sha256(to_bytes([list(row.items()) for row in rows]))
    manifest = {
        **fields,
        "prompts": {"count": len(rows), "sha256": content.hexdigest()},
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES},
    }
    return json.loads(to_json(manifest))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_same(found: Row, manifest: Row, lines: Iterable[Row], rows: Sequence[Row], path: Path) -> None:
    """Refuse to go on with a file that is of something else.

    Args:
        found: the file's manifest.
        manifest: that of the run to be.
        lines: of the file.
        rows: of the run to be.
        path: the file.

    Raises:
        ValueError: it is, and how.
    """
    versions = found.get("versions"), manifest["versions"]
    if versions[0] != versions[1]:
        changes = _differences(*versions)
        logger.warning(f"{path} was begun with other versions, and its rest may differ: {'; '.join(changes)}.")
    kept = {key: value for key, value in found.items() if key not in ("versions", "prompts")}
    wanted = {key: value for key, value in manifest.items() if key not in ("versions", "prompts")}
    changes = _differences(kept, wanted)
    if found.get("prompts") != manifest["prompts"]:
        changes += [_prompt_difference(found, manifest, lines, rows)]
    if changes:
        shown = "".join(f"\n- {change}" for change in changes[:_SHOWN])
        more = f"\n- and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ValueError(
            f"{path} is of another run and does not go on as this one. What changed:{shown}{more}\nChoose another "
            "file, or delete this one and its manifest."
        )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs, by name, as `name: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        prefix = f"{name}." if name else ""
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{prefix}{key}")]
    return [] if old == new else [f"{name}: {to_json(old):.80} -> {to_json(new):.80}"]


def _prompt_difference(found: Row, manifest: Row, lines: Iterable[Row], rows: Sequence[Row]) -> str:
    """The first prompt that differs, as far as lines tell; their order or number otherwise."""
    given = {row["id"]: row for row in rows}
    done = 0
    for line in lines:
        done += 1
        row = given.get(line["id"])
        if row is None:
            return f"prompts: id {line['id']!r} is not there any more"
        for column, value in row.items():
            if to_json(line.get(column)) != to_json(value):
                return f"prompts: id {line['id']!r}, {column}: {to_json(line.get(column)):.80} -> {to_json(value):.80}"
    counts = found.get("prompts", {}).get("count"), manifest["prompts"]["count"]
    if counts[0] != counts[1]:
        return f"prompts: {counts[0]} -> {counts[1]} rows"
    return f"prompts: other rows than before, or in another order, none of them among the {done} lines done"
