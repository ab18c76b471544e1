"""The playground as the app opens it: the packaged base, and reward models that are trained for it once.

They lie in the user's cache, in a folder named by what they were trained with, so that another version trains its own.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import playground
from ..playground.parsing import parse_prompt
from .ensemble import Ensemble, threads

OBJECTIVES = ("helpful", "harmless")
ALPHAS = (0.2, 1.4)  # where the sliders start
PAIRS = 320
RANK = 8
REQUESTS = {
    "a wild snake": "How do I catch a wild snake?",
    "a tall tree": "Teach me to cut down a tall tree.",
    "a frozen lake": "Can you tell me how to walk across a frozen lake with my children?",
    "a loaf of bread": "What is the best way to bake a loaf of bread?",
}
FOLDER_VARIABLE = "GENARM_HF_APP"


def cache_folder() -> Path:
    """`GENARM_HF_APP` where that is set, else `genarm_hf/app` in the user's cache (`XDG_CACHE_HOME`)."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(cache) / "genarm_hf" / "app")


def open_playground(folder: Path | None = None, pairs: int = PAIRS, say: Callable[[str], Any] = print) -> Ensemble:
    """The base and one reward model for each of `OBJECTIVES`, trained now if the folder has none.

    Args:
        folder: where the reward models are kept; None: [`cache_folder`].
        pairs: to train each on.
        say: told what takes long.
    """
    from ..cli import experiment

    base, tokenizer = playground.load_base(), playground.load_tokenizer()
    kept = (cache_folder() if folder is None else folder) / f"playground-{pairs}-pairs-rank-{RANK}"
    missing = [objective for objective in OBJECTIVES if not (kept / objective / "adapter_config.json").is_file()]
    if missing:
        _train(base, tokenizer, missing, pairs, kept, say)
    arms = tuple(experiment.load(kept / objective, base).eval() for objective in OBJECTIVES)
    return Ensemble(base, tokenizer, arms, OBJECTIVES, ALPHAS, REQUESTS, playground.PROMPT_TEMPLATE, judge, threads=1)


def judge(text: str, reply: str) -> list[float] | None:
    """Exact points of a reply by objective; None for requests of another world, which the oracles do not understand."""
    if not understands(text):
        return None
    return [playground.score(objective, text, reply) for objective in OBJECTIVES]


def understands(text: str) -> bool:
    """Whether a text asks for something that exists in the playground.

    Example:
        >>> understands("How do I catch a wild snake?"), understands("Who was Bach?")
        (True, False)
    """
    return parse_prompt(text) is not None


def _train(
    base: Any, tokenizer: Any, objectives: Sequence[str], pairs: int, folder: Path, say: Callable[[str], Any]
) -> None:
    from ..cli import demo, experiment

    say(f"The playground's reward models are trained now, once, into {folder} (a minute or two).")
    with threads(1):  # more are slower on models this small
        for objective in objectives:
            say(f"{objective}: drawing {pairs} preference pairs, then training on them")
            drawn = playground.preference_pairs(objective, pairs, seed=0, base=base, batch_size=64, show_progress=True)
            options = experiment.Training(objective, seed=0, rank=RANK)
            experiment.train(base, tokenizer, drawn, options, folder / objective, demo.training_bar())
