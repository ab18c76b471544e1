"""CARDS: where segments end, and which are accepted."""

import math
from typing import Any

import pytest
import torch

from genarm_hf.baselines import cards_generate
from genarm_hf.baselines.cards import entropy

from ..conftest import EOS, prompts, tiny
from .reference import SMALL, assert_distributed, best_of, classifier, many, next_logits, reward_of, texts, tokenwise

PROMPT = torch.tensor([3, 4])


# one proposal in eight is accepted: enough rejections to show, and none that ends with the best of many
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 2, "target_reward": -3.0, "beta": 0.8, "max_rejections": 1000, "eos_token_id": [],
}  # fmt: skip


def acceptance(reward: Any, text: torch.Tensor, tokens: int) -> float:
    start = 0.5 * reward_of(reward, PROMPT) + 0.5 * -3.0
    threshold = start + tokens / 2 * (-3.0 - start)
    return min(1.0, math.exp((reward_of(reward, text) - threshold) / 0.8))


def with_token(ids: torch.Tensor, token: int) -> torch.Tensor:
    return torch.cat([ids, torch.tensor([token])])


def test_one_segment_is_rejection_sampling_of_the_response() -> None:
    base, reward = tiny(**SMALL), classifier(**SMALL)
    plain = tokenwise(lambda ids: next_logits(base, ids).softmax(-1), PROMPT)
    accepted = [acceptance(reward, torch.cat([PROMPT, torch.tensor(text)]), 2) for text in texts()]
    expected = plain * torch.tensor(accepted)
    torch.manual_seed(0)
    output = cards_generate(base, reward, many(PROMPT[None], 800), entropy_threshold=math.inf, **SETTINGS)
    assert_distributed(output, expected / expected.sum(), unlike=plain)


def test_segments_of_one_token_are_rejected_one_by_one() -> None:
    base, reward = tiny(**SMALL), classifier(**SMALL)

    def policy(ids: torch.Tensor) -> torch.Tensor:
        following = [acceptance(reward, with_token(ids, z), len(ids) - 1) for z in range(6)]
        chances = next_logits(base, ids).softmax(-1) * torch.tensor(following)
        return chances / chances.sum()

    torch.manual_seed(0)
    output = cards_generate(base, reward, many(PROMPT[None], 500), entropy_threshold=1e-6, **SETTINGS)
    plain = tokenwise(lambda ids: next_logits(base, ids).softmax(-1), PROMPT)
    assert_distributed(output, tokenwise(policy, PROMPT), unlike=plain)


def test_the_best_is_taken_after_many_rejections() -> None:
    base, reward = tiny(**SMALL), classifier(**SMALL)
    plain = tokenwise(lambda ids: next_logits(base, ids).softmax(-1), PROMPT)
    scores = torch.tensor([reward_of(reward, torch.cat([PROMPT, torch.tensor(text)])) for text in texts()])
    torch.manual_seed(0)
    output = cards_generate(
        base, reward, many(PROMPT[None], 1500), max_new_tokens=2, target_reward=1e4, beta=0.1,
        entropy_threshold=math.inf, max_rejections=3, eos_token_id=[],
    )  # fmt: skip
    assert_distributed(output, best_of(plain, scores, 4), unlike=plain)


@pytest.mark.parametrize(("min_segment", "max_segment"), [(1, 64), (2, 3)])
def test_segments_end_before_uncertain_tokens(min_segment: int, max_segment: int) -> None:
    base, judged = tiny(seed=2, initializer_range=0.3), []
    prompt = prompts(3, 6, padded=True)

    def always(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        judged.extend(row[real == 1].tolist() for row, real in zip(ids, mask, strict=True))
        return torch.zeros(len(ids))

    torch.manual_seed(1)
    settings = {"entropy_threshold": 2.0, "min_segment": min_segment, "max_segment": max_segment}
    output = cards_generate(base, always, **prompt, max_new_tokens=12, target_reward=0.0, **settings)
    boundaries = 0
    for row, mask in zip(output, prompt["attention_mask"], strict=True):
        text = row[6 - int(mask.sum()) :]
        start = int(mask.sum())
        response = text[start:].tolist()
        end = start + (response.index(EOS) + 1 if EOS in response else len(response))
        ends, begun = [], start
        for place in range(start + 1, end + 1):
            uncertain = float(entropy(next_logits(base, text[:place])[None])) >= 2.0
            if place == end or place - begun == max_segment or (uncertain and place - begun >= min_segment):
                ends.append(text[:place].tolist())
                begun = place
        assert [one for one in judged if one in ends] == ends
        boundaries += len(ends)
    assert len(judged) == 3 + boundaries and boundaries > 6


def test_a_base_without_luck_writes_greedily_whatever_is_rejected() -> None:
    """Rows of several lengths, rejections and segments come together to the one text there is."""
    base, reward, prompt = tiny("gpt2"), classifier(), prompts(4, 6, padded=True)
    expected = base.generate(**prompt, max_new_tokens=10, do_sample=False)
    torch.manual_seed(0)
    output = cards_generate(
        base, reward, **prompt, max_new_tokens=10, target_reward=2.0, entropy_threshold=1.5, top_k=1, max_rejections=2
    )
    assert torch.equal(output, expected)


def test_rejected_segments_do_not_read_the_prefix_again() -> None:
    base, seen = tiny(), []
    base.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    cards_generate(
        base, lambda ids, mask: torch.zeros(len(ids)), **prompts(1, 6), max_new_tokens=2, target_reward=1e4,
        entropy_threshold=math.inf, max_rejections=2, eos_token_id=[],
    )  # fmt: skip
    assert seen == [(1, 6), (1, 1), (1, 1), (1, 1)]
