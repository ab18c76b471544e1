"""What the decoders must equal: one row at a time, everything read anew, by the formulas of the papers themselves."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from genarm_hf.baselines import TrajectoryReward, from_causal_lm

from ..conftest import tiny

SMALL: dict[str, Any] = {"vocab_size": 6, "initializer_range": 0.4, "pad_token_id": 0, "eos_token_id": None}
"""Configuration of models whose texts can be enumerated."""
LENGTH = 2
SAMPLES = 3000
Score = Callable[[Tensor], float]


def classifier(kind: str = "llama", seed: int = 5, per_token: bool = False, **changes: Any) -> TrajectoryReward:
    """A random reward of full texts, or of prefixes."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = from_causal_lm(tiny(kind, seed=seed, **changes), per_token=per_token)
    head = model.classifier if hasattr(model, "classifier") else model.score
    torch.nn.init.normal_(head.weight, std=0.5)
    torch.set_rng_state(state)
    return TrajectoryReward(model)


@torch.no_grad()
def next_logits(model: Any, ids: Tensor) -> Tensor:
    """`(vocab,)` behind one text."""
    return model(ids[None], use_cache=False).logits[0, -1].float()


@torch.no_grad()
def reward_of(reward: TrajectoryReward, ids: Tensor) -> float:
    """Of one text, by the classifier as transformers runs it."""
    return float(reward.model(ids[None], use_cache=False).logits.flatten()[-1])


def rows(prompt: dict[str, Tensor]) -> Iterator[Tensor]:
    """Each prompt by itself, without padding."""
    for ids, mask in zip(prompt["input_ids"], prompt["attention_mask"], strict=True):
        yield ids[mask == 1]


def greedy(ids: Tensor, choose: Callable[[Tensor], int], new_tokens: int, eos: int | None) -> list[int]:
    """The response that `choose` writes token by token."""
    start = len(ids)
    for _ in range(new_tokens):
        ids = torch.cat([ids, torch.tensor([choose(ids)])])
        if int(ids[-1]) == eos:
            break
    return ids[start:].tolist()


def responses(output: Tensor, prompt_length: int, eos: int | None) -> list[list[int]]:
    """Responses up to their end; what follows it must be padding."""
    found = []
    for row in output[:, prompt_length:].tolist():
        end = row.index(eos) + 1 if eos in row else len(row)
        assert set(row[end:]) <= {0}
        found.append(row[:end])
    return found


# ---------------------------------------------------------------------- exact distributions


def texts(vocab: int = 6) -> list[tuple[int, ...]]:
    """All responses of `LENGTH` tokens."""
    return list(itertools.product(range(vocab), repeat=LENGTH))


def tokenwise(policy: Callable[[Tensor], Tensor], prompt: Tensor) -> Tensor:
    """Probability of each of `texts()` when every token comes from `policy(ids)` `(vocab,)`."""
    result = []
    for text in texts():
        ids, probability = prompt, 1.0
        for token in text:
            probability *= float(policy(ids)[token])
            ids = torch.cat([ids, torch.tensor([token])])
        result.append(probability)
    return torch.tensor(result)


def best_of(probabilities: Tensor, scores: Tensor, n: int) -> Tensor:
    """Probability of each outcome to be the best of `n` draws: all are at most as good, less that all are worse."""
    at_most = torch.stack([probabilities[scores <= score].sum() for score in scores])
    below = torch.stack([probabilities[scores < score].sum() for score in scores])
    return at_most**n - below**n


def assert_distributed(output: Tensor, expected: Tensor, unlike: Tensor) -> None:
    """Samples `(SAMPLES, length)` follow `expected` over `texts()`, and the test can tell it from `unlike`."""
    assert abs(float(expected.sum()) - 1) < 1e-4
    codes = (output[:, -LENGTH:] * torch.tensor([6, 1])).sum(-1)
    found = torch.bincount(codes, minlength=36) / len(codes)
    draws = [torch.bincount(expected.multinomial(len(codes), True), minlength=36) / len(codes) for _ in range(40)]
    noise = (torch.stack(draws) - expected).abs().sum(-1) / 2
    limit = float(noise.mean() + 4 * noise.std())
    assert float((found - expected).abs().sum() / 2) < limit
    assert float((expected - unlike).abs().sum() / 2) > 1.5 * limit, "the test could not tell them apart"


def many(prompt: Tensor, times: int = SAMPLES) -> Tensor:
    """The same prompt `times` times."""
    return prompt.expand(times, -1)
