"""Best-of-N: the order statistics of the base's samples."""

import torch

from genarm_hf.baselines import best_of_n_generate

from ..conftest import prompts, tiny
from .reference import SMALL, assert_distributed, best_of, classifier, many, next_logits, reward_of, texts, tokenwise


def test_the_best_of_n_samples() -> None:
    base, reward, prompt = tiny(**SMALL), classifier(**SMALL), torch.tensor([3, 4])
    sampled = tokenwise(lambda ids: next_logits(base, ids).softmax(-1), prompt)
    scores = torch.tensor([reward_of(reward, torch.cat([prompt, torch.tensor(text)])) for text in texts()])
    torch.manual_seed(0)
    output = best_of_n_generate(base, reward, many(prompt[None]), max_new_tokens=2, n=4, eos_token_id=[])
    assert_distributed(output, best_of(sampled, scores, 4), unlike=sampled)


def test_temperature_and_top_k_are_those_of_the_samples() -> None:
    base, prompt = tiny(**SMALL), torch.tensor([3, 4])

    def policy(ids: torch.Tensor) -> torch.Tensor:
        logits = next_logits(base, ids)
        return (logits.masked_fill(logits < logits.topk(3).values[-1], -torch.inf) / 2).softmax(-1)

    torch.manual_seed(0)
    output = best_of_n_generate(
        base, lambda ids, mask: torch.zeros(len(ids)), many(prompt[None]),
        max_new_tokens=2, n=1, temperature=2.0, top_k=3, eos_token_id=[],
    )  # fmt: skip
    plain = tokenwise(lambda ids: next_logits(base, ids).softmax(-1), prompt)
    assert_distributed(output, tokenwise(policy, prompt), unlike=plain)


def test_one_greedy_sample_is_greedy_decoding() -> None:
    base, prompt = tiny("gpt2"), prompts(3, 6, padded=True)
    expected = base.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert torch.equal(best_of_n_generate(base, classifier(), **prompt, max_new_tokens=8, n=2, top_k=1), expected)


def test_the_prompt_is_read_once_and_all_samples_are_scored_together() -> None:
    base, reward, seen = tiny(), classifier(), []
    for model in (base, reward.model):
        model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(tuple((args[0] if args else kwargs["input_ids"]).shape)),
            with_kwargs=True,
        )
    best_of_n_generate(base, reward, **prompts(2, 6), max_new_tokens=3, n=5, eos_token_id=[])
    assert seen == [(2, 6), (10, 1), (10, 1), (10, 9)]


def test_columns_that_only_lost_samples_had_are_cut() -> None:
    base = tiny(**SMALL | {"eos_token_id": 2})
    torch.manual_seed(0)
    shortest = lambda ids, mask: -mask.sum(-1)  # noqa: E731
    output = best_of_n_generate(base, shortest, torch.tensor([[3, 4]]), max_new_tokens=12, n=64)
    assert output.shape == (1, 3) and int(output[0, -1]) == 2
