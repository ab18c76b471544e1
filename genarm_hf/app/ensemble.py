"""Who plays: a base, the reward models that pull at it, and how each of them is asked."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..cli.loading import load_base, load_reward_model, quiet
from ..decoding.guided_model import guide

MOST_REWARD_MODELS = 4
Judge = Callable[[str, str], list[float] | None]


@dataclass(frozen=True)
class Asked:
    """A request as the models read it.

    Attributes:
        text: what the base reads.
        inputs: the base's encoding, one row.
        reward_inputs: encodings of reward models with a prompt template of their own, None for those without.
    """

    text: str
    inputs: Any
    reward_inputs: list[Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """What `generate()` is to be given, for one row."""
        mask = self.inputs["attention_mask"]
        return {"input_ids": self.inputs["input_ids"], "attention_mask": mask, "reward_inputs": self.reward_inputs}


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A base and its reward models, checked to fit.

    Attributes:
        base: the base, which stays frozen.
        tokenizer: the base's.
        arms: the reward models.
        objectives: what each of them rewards, no two names alike.
        requests: a few to choose from, by what they are called on the page.
        template: of what the base reads, with `{prompt}`; None: its chat template, or the request as it is.
        judge: points of a reply by objective, from `(text, reply)`, where somebody knows them exactly; it gives None
            for texts that it does not understand.
        alphas: where the sliders start.
        threads: of torch while these models write; None: as many as there are.
    """

    base: Any
    tokenizer: Any
    arms: tuple[Any, ...]
    objectives: tuple[str, ...]
    alphas: tuple[float, ...]
    requests: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    judge: Judge | None = None
    threads: int | None = None

    @property
    def quick(self) -> bool:
        """Whether measuring takes no time to speak of, so that nobody need ask for it."""
        return self.judge is not None

    def __deepcopy__(self, memo: Any) -> "Ensemble":
        """Visitors share the models, whatever is copied for each of them."""
        return self

    def ask(self, request: str) -> Asked:
        """A request in everybody's words.

        Raises:
            ValueError: it is empty.
        """
        if not request.strip():
            raise ValueError("The request is empty: write what the model is to answer.")
        text, inputs = self._as_read(request.strip())
        templates = [arm.config.prompt_template for arm in self.arms]
        own = [self._encode(template.format(prompt=request.strip())) if template else None for template in templates]
        return Asked(text, inputs, own)

    def _as_read(self, request: str) -> tuple[str, Any]:
        if self.template is not None:
            text = self.template.format(prompt=request)
            return text, self._encode(text)
        if getattr(self.tokenizer, "chat_template", None):
            chat = {"conversation": [{"role": "user", "content": request}], "add_generation_prompt": True}
            encoded = self.tokenizer.apply_chat_template(**chat, return_dict=True, return_tensors="pt")
            return request, encoded.to(self.base.device)
        return request, self._encode(request)

    def _encode(self, text: str) -> Any:
        return self.tokenizer(text, return_tensors="pt").to(self.base.device)


def load(base_name: str, reward_names: Sequence[str], dtype: str = "auto", device: str = "auto") -> Ensemble:
    """A base and reward models of the user's own.

    Args:
        base_name: folder or hub name.
        reward_names: folders or hub names of reward models, adapters or causal LMs of the same vocabulary.
        dtype: of the weights; `"auto"`: as they are stored.
        device: torch's name for it; `"auto"`: the fastest there is.

    Raises:
        ValueError: there are no reward models, or too many; one of the models is not there; they do not fit each other.
    """
    names = [name.strip() for name in reward_names if name.strip()]
    if not base_name.strip() or not names:
        raise ValueError("Name a base and at least one reward model: folders, or names on the hub.")
    if len(names) > MOST_REWARD_MODELS:
        raise ValueError(f"At most {MOST_REWARD_MODELS} reward models have a slider here; got {len(names)}.")
    with quiet():
        base, tokenizer = load_base(base_name.strip(), dtype, device, option="Base")
        arms = [load_reward_model(name, base, base_name.strip(), dtype, option="Reward model") for name in names]
        guide(base, arms, tokenizer=tokenizer)  # refuses what does not fit
    objectives = told_apart([arm.config.objective or "reward" for arm in arms])
    return Ensemble(base, tokenizer, tuple(arms), tuple(objectives), tuple(alpha_of(arm) for arm in arms))


def alpha_of(arm: Any) -> float:
    """What a reward model's configuration asks for, else 1."""
    return 1.0 if arm.config.alpha is None else float(arm.config.alpha)


def told_apart(names: Sequence[str]) -> list[str]:
    """Names that occur several times get numbers.

    Example:
        >>> told_apart(["harmless", "reward", "reward"])
        ['harmless', 'reward 1', 'reward 2']
    """
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} {seen[name]}" if counts[name] > 1 else name)
    return numbered


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with so many of torch's threads; None: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
