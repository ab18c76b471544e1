"""Where claims get their models, prompts and preference pairs from: made once, kept in a folder.

The world is the playground's. The full lab has a strong base of 6.1M parameters, weak ones of 0.3M, 300 held-out
prompts and 5 seeds; the fast one takes the packaged base of 1.6M for the strong one, 30 prompts and 1 seed. Everything
is deterministic in its settings (and the number of threads), and what is on disk is complete.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import playground
from ..files import written_whole
from ..playground.preferences import PreferencePair, distinct_replies, label

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

FOLDER_VARIABLE = "GENARM_HF_LAB"
_SETTINGS = "settings.json"
_LOCKS = ".locks"
_PROMPT_SEED = 1_000_003


def default_folder() -> Path:
    """`GENARM_HF_LAB` where that is set, else `genarm_hf/lab` in the user's cache (`XDG_CACHE_HOME`)."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(cache) / "genarm_hf" / "lab")


@dataclass(frozen=True)
class Lab:
    """What claims are measured with.

    Attributes:
        folder: where models and texts are kept.
        fast: smaller and quicker, to see that everything works.
        data: folder of real preference pairs, for claims about these.
    """

    folder: Path
    fast: bool = False
    data: Path | None = None

    @property
    def seeds(self) -> range:
        """Seeds of repetitions: other pairs, other training, other samples."""
        return range(1 if self.fast else 5)

    @property
    def prompts(self) -> list[str]:
        """Held-out prompts that results are reported on, the same for every claim."""
        return _held_out()[: 30 if self.fast else 300]

    @property
    def dev_prompts(self) -> list[str]:
        """Other held-out prompts, on which methods are tuned."""
        return _held_out()[300 : 330 if self.fast else 360]

    @property
    def pairs_to_train_on(self) -> int:
        """Preference pairs of one training, if a claim does not vary them."""
        return 200 if self.fast else 400

    @property
    def reward_rate(self) -> float:
        """Learning rate of reward models on the strong base, ARMs and trajectory-level ones alike.

        Chosen on dev data (seed 0). At 3e-3 those on the larger base are worse: an ARM goes further and is worth less
        (reward 1.8 at 13.7 nats with alpha 2, against 2.2 at 8.9), and a trajectory-level one ranks 61 % of other pairs
        right, against 66 %.
        """
        return 3e-3 if self.fast else 2e-3

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Of all models."""
        return playground.load_tokenizer()

    @cached_property
    def strong(self) -> "LlamaForCausalLM":
        """The base that is guided: 6.1M parameters, or 1.6M in the fast lab."""
        return playground.load_base() if self.fast else self._pretrained("strong")

    @cached_property
    def weak(self) -> "LlamaForCausalLM":
        """A base of 0.3M parameters, pretrained on the same text."""
        return self._pretrained("weak")

    def describe(self) -> dict[str, Any]:
        """What a reader needs to know of it."""
        strong = "the packaged base, 1.6M parameters" if self.fast else "6.1M parameters"
        counts = {"prompts": len(self.prompts), "seeds": len(self.seeds)}
        return {"lab": "fast" if self.fast else "full", "strong base": strong, "weak base": "0.3M parameters", **counts}

    def trained(self, kind: str, settings: Mapping[str, Any], make: Callable[[Path], Any]) -> Path:
        """The folder of a model or other result with these settings; made only if it is not there.

        Of several processes that ask for it, one makes it and the others wait.

        Args:
            kind: what it is, for people and as a part of its name.
            settings: all that it depends on, of JSON types.
            make: writes it into the folder that it is given, which becomes the result when it returns.
        """
        from filelock import FileLock

        settings = {"kind": kind, **settings}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.folder / f"{kind}-{digest}"
        if folder.exists():
            return folder
        locks = self.folder / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / folder.name):
            if not folder.exists():
                with written_whole(folder) as draft:
                    draft.mkdir()
                    make(draft)
                    (draft / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return folder

    def pairs(self, objective: str, n: int, seed: int, scale: float = 1.0) -> list[PreferencePair]:
        """Preference pairs of the strong base's replies, labelled by a noisy judge (`playground.preference_pairs`).

        The replies are drawn once for all objectives and scales.

        Args:
            objective: one of `playground.OBJECTIVES`.
            n: number of pairs, each with a training prompt of its own.
            seed: of prompts, replies and labels.
            scale: of the judge, per point.
        """
        prompts = playground.prompts(n, seed)
        settings = {"base": self.strong_settings(), "n": n, "seed": seed}
        folder = self.trained("replies", settings, lambda draft: self._draw(draft, prompts, seed))
        replies = [tuple(pair) for pair in json.loads((folder / "replies.json").read_text(encoding="utf-8"))]
        rng = random.Random(seed)
        return [label(objective, prompt, pair, rng, scale) for prompt, pair in zip(prompts, replies, strict=True)]

    def _draw(self, draft: Path, prompts: list[str], seed: int) -> None:
        options = {"temperature": 1.0, "batch_size": 64}
        replies = distinct_replies(self.strong, self.tokenizer, prompts, seed, options)
        (draft / "replies.json").write_text(json.dumps(replies), encoding="utf-8")

    def strong_settings(self) -> dict[str, Any]:
        """What tells the strong base from others, for settings of what is made from it."""
        return {"size": "base"} if self.fast else _size_settings("strong")

    def _pretrained(self, size: str) -> "LlamaForCausalLM":
        import torch
        from transformers import LlamaForCausalLM

        from ..playground.pretrain import pretrain

        settings = _size_settings(size)
        folder = self.trained("base", settings, lambda draft: pretrain(size, draft, seed=settings["seed"]))
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _held_out() -> list[str]:
    return playground.prompts(360, seed=_PROMPT_SEED, split="test")


def _size_settings(size: str) -> dict[str, Any]:
    from ..playground.pretrain import SIZES

    return {"size": size, **asdict(SIZES[size]), "seed": 0}
