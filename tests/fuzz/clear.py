"""What an error has to be to count as one clear sentence, and not as a traceback from somewhere deep down."""

import ast
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType

import accelerate
import datasets
import huggingface_hub
import peft
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

import genarm_hf

# of what reads models and data for us, an error that it raises on purpose is in words for people too
SPEAKERS = (genarm_hf, transformers, huggingface_hub, datasets)
# of a command also what checks the options that training hands on
TRAINING_SPEAKERS = (*SPEAKERS, accelerate, peft, torch)
# the last is how configurations of transformers refuse a value of another type
KINDS = (ValueError, TypeError, OSError, ImportError, StrictDataclassError)
_WORDS = 4


def unclear(error: BaseException, speakers: tuple[ModuleType, ...] = SPEAKERS) -> str | None:
    """What is wrong with an error that a user is shown; None where it is a clear sentence.

    It must be of a kind that says "your input", come from a `raise` statement of ours (or of the libraries that read
    models and data for us) instead of from an operation that failed, and have words.
    """
    if not isinstance(error, KINDS):
        return f"{type(error).__name__} is not a kind of error for bad input: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        return None  # the system's own: what is wrong, and with which file
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if not any(Path(frame.filename).is_relative_to(Path(module.__file__ or "").parent) for module in speakers):
        return f"raised in {frame.filename}:{frame.lineno}: {type(error).__name__}: {error}"
    if frame.lineno not in _raises(frame.filename):
        return f"not raised but failed, in {frame.filename}:{frame.lineno}: {type(error).__name__}: {error}"
    if len(str(error).split()) < _WORDS:
        return f"no sentence: {type(error).__name__}: {error}"
    return None


@cache
def _raises(path: str) -> frozenset[int]:
    """Lines of a file that belong to `raise` statements."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return frozenset(
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )
