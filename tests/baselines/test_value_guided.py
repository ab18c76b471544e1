"""Prefix values: tokenwise and blockwise control, and the rollouts that values are learned from."""

import torch

from genarm_hf.baselines import best_of_n_generate, blockwise_generate, sample_value_rows, value_guided_generate

from ..conftest import EOS, prompts, tiny
from .reference import (
    SMALL,
    assert_distributed,
    best_of,
    classifier,
    greedy,
    many,
    next_logits,
    responses,
    reward_of,
    rows,
    tokenwise,
)

PROMPT = torch.tensor([3, 4])


def values_behind(value, ids: torch.Tensor, vocab: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return torch.tensor([reward_of(value, torch.cat([ids, torch.tensor([z])])) for z in range(vocab)])


def test_tokens_come_from_the_tilted_distribution() -> None:
    base, value = tiny(**SMALL), classifier(per_token=True, **SMALL)

    def policy(ids: torch.Tensor) -> torch.Tensor:
        return (next_logits(base, ids).log_softmax(-1) + 0.9 * values_behind(value, ids, 6)).softmax(-1)

    torch.manual_seed(0)
    output = value_guided_generate(
        base, value, many(PROMPT[None]), max_new_tokens=2, weight=0.9, k=None, eos_token_id=[]
    )
    plain = tokenwise(lambda ids: next_logits(base, ids).softmax(-1), PROMPT)
    assert_distributed(output, tokenwise(policy, PROMPT), unlike=plain)


def test_greedy_equals_the_formula_over_the_whole_vocabulary() -> None:
    base, value, prompt = tiny("gpt2"), classifier("mistral", per_token=True), prompts(3, 6, padded=True)

    def choose(ids: torch.Tensor) -> int:
        return int((next_logits(base, ids) + values_behind(value, ids, 48)).argmax())

    output = value_guided_generate(base, value, **prompt, max_new_tokens=6, do_sample=False)  # 200 candidates of 48
    assert responses(output, 6, EOS) == [greedy(ids, choose, 6, EOS) for ids in rows(prompt)]


def test_each_block_is_the_best_of_k() -> None:
    base, value = tiny(**SMALL), classifier(per_token=True, **SMALL)

    def policy(ids: torch.Tensor) -> torch.Tensor:
        return best_of(next_logits(base, ids).softmax(-1), values_behind(value, ids, 6), 3)

    torch.manual_seed(0)
    output = blockwise_generate(base, value, many(PROMPT[None]), max_new_tokens=2, k=3, block_size=1, eos_token_id=[])
    plain = tokenwise(lambda ids: next_logits(base, ids).softmax(-1), PROMPT)
    assert_distributed(output, tokenwise(policy, PROMPT), unlike=plain)


def test_one_block_is_best_of_n() -> None:
    base, reward, prompt = tiny(), classifier(), prompts(3, 6, padded=True)
    torch.manual_seed(0)
    block = blockwise_generate(base, reward, **prompt, max_new_tokens=6, k=4, block_size=6)
    torch.manual_seed(0)
    assert torch.equal(best_of_n_generate(base, reward, **prompt, max_new_tokens=6, n=4), block)


def test_blocks_of_a_base_without_luck_are_greedy() -> None:
    base, prompt = tiny("qwen3"), prompts(4, 6, padded=True)
    expected = base.generate(**prompt, max_new_tokens=9, do_sample=False)
    output = blockwise_generate(base, classifier(), **prompt, max_new_tokens=9, k=2, block_size=2, top_k=1)
    assert torch.equal(output, expected)


def test_rows_hold_rollouts_and_their_rewards() -> None:
    base, reward, prompt = tiny(initializer_range=0.05), classifier(), prompts(3, 5, padded=True)
    torch.manual_seed(0)
    found = sample_value_rows(base, reward, **prompt, max_new_tokens=12, num_rollouts=16)
    assert len(found) == 48
    assert [row["prompt_ids"] for row in found] == [ids.tolist() for ids in rows(prompt) for _ in range(16)]
    for row in found:
        text = torch.tensor([*row["prompt_ids"], *row["response_ids"]])
        torch.testing.assert_close(row["reward"], reward_of(reward, text), atol=1e-4, rtol=1e-4)
        assert EOS not in row["response_ids"][:-1]
        assert len(row["response_ids"]) == 12 or row["response_ids"][-1] == EOS
    assert any(len(row["response_ids"]) < 12 for row in found), "no rollout ended by itself"
