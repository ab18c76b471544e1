"""Guided tokens of vLLM are those of transformers' generate(), however vLLM schedules them."""

import pytest

from .conftest import generate, params, random_prompts, start

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")

ALPHAS = [None, 1.0, 0.5, 0, -0.5, [2.0]]
LENGTHS = (3, 61, 17, 1, 33, 8)


@pytest.fixture(scope="module")
def engine(zoo):
    """The base with one reward model of its own shape, at alpha 0.7 where a request names none."""
    return start(zoo.compose("base", ["same"], [0.7]))


def expected(zoo, prompts, alphas, tokens=16):
    return [
        zoo.expected("base", ["same"], prompt, 0.7 if alpha is None else alpha, tokens)
        for prompt, alpha in zip(prompts, alphas, strict=True)
    ]


def test_each_request_of_a_batch_has_its_own_alpha(zoo, engine):
    prompts = random_prompts(LENGTHS)
    assert generate(engine, prompts, [params(alpha) for alpha in ALPHAS]) == expected(zoo, prompts, ALPHAS)


def test_alpha_matters(zoo):
    """Or the other tests would show nothing."""
    prompt = random_prompts([9])[0]
    assert len({tuple(zoo.expected("base", ["same"], prompt, alpha, 16)) for alpha in (0.0, 0.5, 1.0, -0.5)}) == 4


def test_alpha_zero_is_the_base_served_alone(zoo, engine):
    prompts = random_prompts(LENGTHS, seed=1)
    mixed = [params(alpha) for alpha in (0, 1.0, [0.0], 0.5, 0, 0)]
    alone = generate(start(zoo.path("base")), prompts, params())
    guided = generate(engine, prompts, mixed)
    assert [guided[row] for row in (0, 2, 4, 5)] == [alone[row] for row in (0, 2, 4, 5)]
    assert guided[1] != alone[1] and guided[3] != alone[3]


def test_requests_come_and_go_at_different_times(zoo, engine):
    """Rows of the batch are freed, moved and filled again in most steps."""
    prompts = random_prompts([5, 40, 12, 2, 21, 9, 30, 3, 14, 7], seed=2)
    alphas = [(None, 0, 1.0, -0.5, 0.3)[index % 5] for index in range(len(prompts))]
    tokens = [3, 20, 7, 12, 1, 9, 16, 5, 25, 2]
    core = engine.llm_engine
    waiting, done, steps = list(range(len(prompts))), {}, 0
    while waiting or core.has_unfinished_requests():
        if waiting and steps % 3 == 0:
            for index in waiting[:2]:
                core.add_request(str(index), {"prompt_token_ids": prompts[index]}, params(alphas[index], tokens[index]))
            waiting = waiting[2:]
        for output in core.step():
            if output.finished:
                done[int(output.request_id.split("-")[0])] = list(output.outputs[0].token_ids)
        steps += 1
    for index, prompt in enumerate(prompts):
        assert done[index] == expected(zoo, [prompt], [alphas[index]], tokens[index])[0], index


def test_an_aborted_request_leaves_the_others_alone(zoo, engine):
    prompts = random_prompts([4, 15, 6], seed=3)
    core = engine.llm_engine
    ids = [
        core.add_request(f"abort-{index}", {"prompt_token_ids": prompt}, params(alpha, 12))
        for index, (prompt, alpha) in enumerate(zip(prompts, (1.0, -0.5, 0.4), strict=True))
    ]
    core.step()
    core.abort_request([ids[0]])
    done = []
    while core.has_unfinished_requests():
        done += [output for output in core.step() if output.finished]
    tokens = sorted((output.request_id, list(output.outputs[0].token_ids)) for output in done)
    assert [found for _, found in tokens[-2:]] == expected(zoo, prompts[1:], [-0.5, 0.4], 12)


def test_sampled_copies_of_a_prompt_share_its_alpha(zoo, engine):
    prompt = random_prompts([6], seed=4)[0]
    output = engine.generate({"prompt_token_ids": prompt}, params(-0.5, n=3, temperature=1e-3), use_tqdm=False)[0]
    found = [list(choice.token_ids) for choice in output.outputs]
    assert found == [zoo.expected("base", ["same"], prompt, -0.5, 16)] * 3


@pytest.mark.parametrize(
    ("base", "arms"),
    [
        # depths, heads per key, size of heads, architectures; a window of the reward model's alone
        ("base", ["deep", "large_heads", "window"]),
        # a window of the base's alone, learned positions, fewer of them than the base has
        ("window", ["qwen3", "gpt2"]),
        ("qwen2", ["gpt2", "same", "qwen2"]),
    ],
)
def test_models_of_all_kinds_together(zoo, base, arms):
    prompts = random_prompts((3, 61, 17, 30), seed=5)
    alphas = [[0.6, -0.4, 0.8][: len(arms)], 0.4, 0, [0, 1.0, 0][: len(arms)]]
    engine = start(zoo.compose(base, arms))
    found = generate(engine, prompts, [params(alpha) for alpha in alphas])
    assert found == [zoo.expected(base, arms, prompt, alpha, 16) for prompt, alpha in zip(prompts, alphas, strict=True)]


def test_preemption_chunks_and_cached_prefixes(zoo, monkeypatch):
    """Blocks for two requests and a half: requests are thrown out and read again, in chunks of 16 tokens."""
    from vllm.v1.core.sched.scheduler import Scheduler

    preempt, preempted = Scheduler._preempt_request, []
    monkeypatch.setattr(
        Scheduler,
        "_preempt_request",
        lambda self, request, *args, **kwargs: (preempted.append(1), preempt(self, request, *args, **kwargs))[1],
    )
    engine = start(
        zoo.compose("base", ["same"], [0.7]),
        num_gpu_blocks_override=8,
        block_size=32,
        max_model_len=128,
        max_num_batched_tokens=16,
        enable_prefix_caching=True,
    )
    prefix = random_prompts([48], seed=6)[0]
    prompts = [prefix + prompt for prompt in random_prompts((5, 1, 20, 9), seed=7)]
    alphas = [1.0, 0, -0.5, None]
    found = generate(engine, prompts, [params(alpha, 24) for alpha in alphas])
    assert found == expected(zoo, prompts, alphas, 24)
    assert preempted
    again = engine.generate({"prompt_token_ids": prompts[2]}, params(0.3, 24), use_tqdm=False)[0]
    assert again.num_cached_tokens >= 48
    assert list(again.outputs[0].token_ids) == zoo.expected("base", ["same"], prompts[2], 0.3, 24)
