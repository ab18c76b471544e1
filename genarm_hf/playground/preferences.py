"""Preference pairs as in practice: two samples of the base model, and a noisy judge who knows the oracle."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, cast

from .oracles import oracle
from .world import Split, sample_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 96  # the generator's longest reply is shorter
_MAX_ATTEMPTS = 5


class PreferencePair(TypedDict):
    """One row for a trainer: the prompt with its template, and the texts of the two replies (no end-of-text token)."""

    prompt: str
    chosen: str
    rejected: str


def preference_probability(difference: float, scale: float = 1.0) -> float:
    """Bradley-Terry: the probability that the first reply is preferred, `sigmoid(scale * difference)`.

    Args:
        difference: Oracle score of the first reply minus that of the second, in points.
        scale: Inverse temperature of the judge, per point; 0 is a coin, infinity always prefers the better reply.

    Example:
        >>> preference_probability(0.0)
        0.5
        >>> round(preference_probability(1.0, scale=2.0), 3)
        0.881
    """
    if difference == 0:
        return 0.5
    return 0.5 * (1 + math.tanh(0.5 * scale * difference))


@contextmanager
def _seeded(model: "PreTrainedModel", seed: int) -> Iterator[None]:
    """Run with torch seeded, and leave the caller's random state as it was."""
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def sample_replies(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    seed: int,
    temperature: float = 1.0,
    num_replies: int = 1,
    batch_size: int = 32,
    show_progress: bool = False,
    **generate_kwargs: Any,
) -> list[str]:
    """Sample replies of a model to many prompts, in left-padded batches.

    Args:
        model: Any model with `generate()`.
        tokenizer: Its tokenizer.
        prompts: Prompts, template included.
        seed: Equal seeds give equal replies (for equal `batch_size`, device and thread count).
        temperature: Of sampling.
        num_replies: Replies to each prompt.
        batch_size: Prompts a batch; a batch has `batch_size * num_replies` rows.
        show_progress: Show a progress bar.
        **generate_kwargs: Handed to `generate()`, such as `reward_models=[arm], alpha=1.0`.

    Returns:
        `len(prompts) * num_replies` texts; those to one prompt are neighbours.
    """
    from tqdm.auto import tqdm

    generate_kwargs = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": True, "top_k": 0, **generate_kwargs}
    generate_kwargs |= {"temperature": temperature, "num_return_sequences": num_replies}
    generate = cast(Any, model).generate
    replies: list[str] = []
    progress = tqdm(total=len(prompts), unit="prompt", disable=not show_progress)
    with _seeded(model, seed), progress:
        for start in range(0, len(prompts), batch_size):
            batch = list(prompts[start : start + batch_size])
            inputs = tokenizer(batch, return_tensors="pt", padding=True, padding_side="left").to(model.device)
            output = generate(**inputs, **generate_kwargs)
            replies += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            progress.update(len(batch))
    return replies


def label(objective: str, prompt: str, replies: tuple[str, str], rng: random.Random, scale: float) -> PreferencePair:
    """Let the noisy judge say which of two replies is preferred."""
    measure = oracle(objective)
    first, second = replies
    probability = preference_probability(measure(prompt, first) - measure(prompt, second), scale)
    chosen, rejected = (first, second) if rng.random() < probability else (second, first)
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected)


def preference_pairs(
    objective: str,
    n: int,
    seed: int,
    base: "PreTrainedModel | None" = None,
    *,
    temperature: float = 1.0,
    scale: float = 1.0,
    split: Split = "train",
    batch_size: int = 32,
    show_progress: bool = False,
) -> list[PreferencePair]:
    """Draw preference pairs: two different replies of the base model to each prompt, labelled by a Bradley-Terry draw.

    Args:
        objective: One of `OBJECTIVES`.
        n: Number of pairs, each with a prompt of its own.
        seed: Equal seeds give equal pairs. The same replies are drawn for every objective, so pairs labelled for
            different objectives can be compared.
        base: The model that writes the replies; the playground's base by default.
        temperature: Of sampling.
        scale: Inverse temperature of the judge, per oracle point: the first reply is chosen with probability
            `sigmoid(scale * (score_first - score_second))`.
        split: Where the prompts come from.
        batch_size: Prompts sampled at once.
        show_progress: Show a progress bar.

    Raises:
        ValueError: if the objective or split is unknown, the split has too few prompts, or the temperature is so low
            that the model repeats itself.
    """
    from . import load_base, load_tokenizer

    oracle(objective)
    prompts = sample_prompts(n, seed, split)
    model = load_base() if base is None else base
    options = {"temperature": temperature, "batch_size": batch_size, "show_progress": show_progress}
    drawn = distinct_replies(model, load_tokenizer(), prompts, seed, options)
    rng = random.Random(seed)
    return [label(objective, prompt, replies, rng, scale) for prompt, replies in zip(prompts, drawn, strict=True)]


def distinct_replies(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[str],
    seed: int,
    options: dict[str, Any],
) -> list[tuple[str, str]]:
    """Two different replies to each prompt, neither of them empty; the rare prompts without are drawn again."""
    drawn: dict[str, tuple[str, str]] = {}
    missing = prompts
    for attempt in range(_MAX_ATTEMPTS):
        replies = sample_replies(model, tokenizer, missing, seed=seed + attempt, num_replies=2, **options)
        drawn |= zip(missing, zip(replies[::2], replies[1::2], strict=True), strict=True)
        missing = [prompt for prompt in missing if drawn[prompt][0] == drawn[prompt][1] or "" in drawn[prompt]]
        if not missing:
            return [drawn[prompt] for prompt in prompts]
    raise ValueError(
        f"temperature={options['temperature']} gives the same reply twice to {len(missing)} of {len(prompts)} prompts "
        f"in {_MAX_ATTEMPTS} draws; raise the temperature"
    )
