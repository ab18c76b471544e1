"""Implicit rewards while decoding: a difference of two models guides as the two of them would, and counts as one."""

from typing import Any

import pytest
import torch
from transformers import pipeline, set_seed

import genarm_hf
from genarm_hf import GenARMLogitsProcessor, ImplicitRewardModel
from genarm_hf.adapters import share_weights

from ..conftest import EOS, prompts, tiny
from .reference import StatelessGuidance, reference_greedy
from .test_guided_model import count_forwards

NEW = 10
GREEDY = {"max_new_tokens": NEW, "do_sample": False}
ROWS = torch.tensor([[0.9, -0.3], [0.0, 1.2], [0.4, 0.0]])
GREEDY_MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 3},
}
STOCK_MODES: dict[str, dict[str, Any]] = {
    "sample": {"do_sample": True, "temperature": 0.7, "top_k": 12, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


def models(reference: str, kind: str = "llama") -> tuple[Any, Any, Any]:
    """A base, a tuned model, and what that was tuned from: the base itself, or another model."""
    base = tiny(kind)
    return base, tiny("qwen2", seed=1), base if reference == "base" else tiny("gpt2", seed=2)


def terms(alpha: Any) -> Any:
    """Alphas of tuned model, reference and an ordinary reward model, written apart from the package's own."""
    rows = torch.as_tensor(alpha, dtype=torch.float32).reshape(-1, 2)
    return torch.stack([rows[:, 0], -rows[:, 0], rows[:, 1]], 1)


def adapted(lm: Any, seed: int = 1) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    return peft.get_peft_model(lm, config).eval()


@pytest.mark.parametrize("reference", ["base", "other"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma"])
def test_forward_is_the_formula(kind: str, reference: str) -> None:
    base, tuned, untuned = models(reference, kind)
    inputs = prompts(2, 7)
    guided = genarm_hf.guide(base, ImplicitRewardModel(tuned, untuned), 0.7)
    with torch.no_grad():
        offset = tuned(**inputs).logits.log_softmax(-1) - untuned(**inputs).logits.log_softmax(-1)
        expected = base(**inputs).logits + 0.7 * offset
        torch.testing.assert_close(guided(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reference", ["base", "other"])
def test_greedy_modes_equal_the_reference(reference: str) -> None:
    base, tuned, untuned = models(reference)
    rewards = [ImplicitRewardModel(tuned, untuned), tiny("gpt2", seed=9)]
    prompt = prompts(3, 7, seed=1, padded=True)
    expected = reference_greedy(base, [tuned, untuned, rewards[1]], terms(ROWS), prompt, NEW, EOS)
    for name, mode in GREEDY_MODES.items():
        output = base.generate(**prompt, reward_models=rewards, alpha=ROWS, **GREEDY, **mode)
        assert torch.equal(output, expected), name


@pytest.mark.parametrize("mode", STOCK_MODES)
@pytest.mark.parametrize("reference", ["base", "other"])
def test_searching_and_sampling_equal_the_stateless_loop(reference: str, mode: str) -> None:
    base, tuned, untuned = models(reference)
    rewards = [ImplicitRewardModel(tuned, untuned), tiny("gpt2", seed=9)]
    prompt, settings = prompts(3, 7, seed=5, padded=True), GREEDY | STOCK_MODES[mode]
    every = [tuned, untuned, rewards[1]]
    stateless = StatelessGuidance(every, terms(ROWS), prompt, normalize="num_beams" in settings)
    set_seed(1)
    expected = base.generate(**prompt, use_cache=False, logits_processor=[stateless], **settings)
    set_seed(1)
    assert torch.equal(base.generate(**prompt, reward_models=rewards, alpha=ROWS, **settings), expected)
    set_seed(1)
    processor = GenARMLogitsProcessor(rewards, ROWS, prompt["attention_mask"], base=base)
    assert torch.equal(base.generate(**prompt, logits_processor=[processor], **settings), expected)


def test_alpha_by_step_and_prompts_of_its_own() -> None:
    base, tuned, untuned = models("base")
    prompt, own = prompts(2, 7, padded=True), prompts(2, 4, seed=8, padded=True)
    implicit = ImplicitRewardModel(tuned, untuned)
    expected = reference_greedy(
        base, [tuned, base], lambda step: [0.3 * step, -0.3 * step], prompt, NEW, EOS, [own, own]
    )
    output = base.generate(**prompt, reward_models=implicit, alpha=lambda step: 0.3 * step, reward_inputs=own, **GREEDY)
    assert torch.equal(output, expected)


@pytest.mark.parametrize("reference", ["base", "other"])
@pytest.mark.parametrize("draft", ["tuned", "small base", "prompt lookup"])
def test_drafts_change_nothing(reference: str, draft: str) -> None:
    base, tuned, untuned = models(reference)
    prompt = prompts(1, 8)
    mode = {
        "tuned": {"assistant_model": tuned},
        "small base": {"assistant_model": tiny("llama", seed=7, num_hidden_layers=1)},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
    }[draft]
    implicit = ImplicitRewardModel(tuned, untuned)
    expected = reference_greedy(base, [tuned, untuned], [1.5, -1.5], prompt, NEW, EOS)
    output = base.generate(**prompt, reward_models=implicit, alpha=1.5, return_dict_in_generate=True, **GREEDY, **mode)
    assert torch.equal(output.sequences, expected)
    assert len(output.speculation.reward_forwards) == 1 and output.speculation.reward_forwards[0] > 0


# ---------------------------------------------------------------------------------------------- costs


def test_a_reference_that_is_the_base_runs_once() -> None:
    base, tuned, _ = models("base")
    fed = count_forwards(base), count_forwards(tuned)
    base.generate(**prompts(1, 6), reward_models=ImplicitRewardModel(tuned, base), eos_token_id=None, **GREEDY)
    assert len(fed[0]) == len(fed[1]) == NEW


def test_a_reference_of_the_bases_own_tensors_runs_once() -> None:
    base = tiny("llama")
    implicit = ImplicitRewardModel(adapted(share_weights(base)))
    fed = count_forwards(implicit.reference.causal_lm)
    output = base.generate(**prompts(2), reward_models=implicit, alpha=0.6, **GREEDY)
    assert fed == []
    # it would run if it were not the base
    assert torch.equal(tiny("llama").generate(**prompts(2), reward_models=implicit, alpha=0.6, **GREEDY), output)
    assert fed


def test_one_reference_of_several_rewards_runs_once() -> None:
    base, tuned, untuned = models("other")
    rewards = [ImplicitRewardModel(tuned, untuned), ImplicitRewardModel(tiny("llama", seed=5), untuned)]
    fed = count_forwards(untuned)
    output = base.generate(**prompts(2), reward_models=rewards, alpha=[0.5, 0.8], eos_token_id=None, **GREEDY)
    assert len(fed) == NEW
    every = [rewards[0].tuned.backbone, rewards[1].tuned.backbone, untuned]
    assert torch.equal(output, reference_greedy(base, every, [0.5, 0.8, -1.3], prompts(2), NEW, -1))


def test_alpha_zero_runs_neither_model() -> None:
    base, tuned, untuned = models("other")
    fed = count_forwards(tuned), count_forwards(untuned)
    output = base.generate(**prompts(2), reward_models=ImplicitRewardModel(tuned, untuned), alpha=0, **GREEDY)
    assert torch.equal(output, base.generate(**prompts(2), **GREEDY)) and fed == ([], [])


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}, {"cache_implementation": "static"}])
def test_an_adapter_against_the_model_without_it(mode: dict[str, Any]) -> None:
    """One pass for base, reference and tuned model, with the adapter in the very object that is the base."""
    plain, base = tiny("llama"), tiny("llama")
    tuned = adapted(base)
    alone = adapted(tiny("llama")).merge_and_unload()
    prompt = prompts(2, 7, padded=True)
    implicit = ImplicitRewardModel(tuned)
    stateless = StatelessGuidance([alone, plain], [0.8, -0.8], prompt, normalize=bool(mode.get("num_beams")))
    expected = plain.generate(**prompt, use_cache=False, logits_processor=[stateless], **GREEDY | mode)
    output = base.generate(**prompt, reward_models=implicit, alpha=0.8, share_backbone=True, **GREEDY | mode)
    assert torch.equal(output, expected)
    # the object that PEFT changed is what users have at hand as "the base"
    assert ImplicitRewardModel(tuned, base).reference.causal_lm is implicit.reference.causal_lm


# ---------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("reference", ["base", "other"])
def test_token_rewards_of_the_output_are_the_difference(reference: str) -> None:
    base, tuned, untuned = models(reference)
    implicit, arm = ImplicitRewardModel(tuned, untuned), tiny("gpt2", seed=9)
    prompt = prompts(2, 6)
    output = base.generate(
        **prompt,
        reward_models=[implicit, arm],
        alpha=[0.8, 0.2],
        eos_token_id=None,
        return_dict_in_generate=True,
        output_rewards=True,
        **GREEDY,
    )
    assert output.rewards.shape == (2, 2, NEW)
    torch.testing.assert_close(
        output.rewards[0], implicit.token_rewards(output.sequences)[:, 6:].detach(), atol=1e-4, rtol=1e-4
    )


def test_vocabularies_of_two_sizes() -> None:
    base, tuned, untuned = tiny("llama"), tiny("llama", seed=1, vocab_size=45), tiny("gpt2", seed=2)
    prompt = prompts(2, 6)
    prompt["input_ids"] = prompt["input_ids"].clamp(max=44)
    implicit = ImplicitRewardModel(tuned, untuned)
    expected = reference_greedy(base, [tuned, untuned], [0.8, -0.8], prompt, NEW, EOS)
    output = base.generate(
        **prompt, reward_models=implicit, alpha=0.8, return_dict_in_generate=True, output_rewards=True, **GREEDY
    )
    assert torch.equal(output.sequences, expected) and not output.rewards.isnan().any()


def test_continuous_batching() -> None:
    from .test_continuous import greedy, random_ids, small, tokens

    base, tuned = tiny("llama"), tiny("llama", seed=1)
    inputs, alphas = random_ids(3, 9, 5), torch.tensor([[0.9, 0.2], [0.0, -0.4], [0.5, 0.0]])
    arm = tiny("qwen2", seed=3)
    outputs = base.generate_batch(
        inputs,
        reward_models=[ImplicitRewardModel(tuned, base), arm],
        alpha=alphas,
        generation_config=greedy(),
        continuous_batching_config=small(),
        progress_bar=False,
    )
    for ids, row, found in zip(inputs, terms(alphas), tokens(outputs), strict=True):
        prompt = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        expected = reference_greedy(base, [tuned, base, arm], row, prompt, 8, EOS)
        assert found == expected[0, len(ids) :].tolist()


def test_in_a_pipeline(tokenizer: Any) -> None:
    base, tuned, untuned = models("other")
    implicit = ImplicitRewardModel(tuned, untuned)
    generator = pipeline("reward-guided-generation", model=base, tokenizer=tokenizer, reward_models=implicit, alpha=0.8)
    (record,) = generator("abcde", return_full_text=False, eos_token_id=None, **GREEDY)
    inputs = tokenizer("abcde", return_tensors="pt")
    expected = reference_greedy(base, [tuned, untuned], [0.8, -0.8], dict(inputs), NEW, -1)
    assert record["generated_text"] == tokenizer.decode(
        expected[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    reward = implicit.token_rewards(expected)[0, inputs["input_ids"].shape[1] :].sum()
    assert record["rewards"] == pytest.approx([float(reward)], abs=1e-3)


# ---------------------------------------------------------------------------------------------- errors


def test_one_alpha_for_each_given_reward_model() -> None:
    base, tuned, untuned = models("other")
    rewards = [ImplicitRewardModel(tuned, untuned), tiny("gpt2", seed=9)]
    for wrong in ([0.5], [0.5, -0.5, 0.2]):
        with pytest.raises(ValueError, match=r"\(2,\) for the 2 reward model"):
            base.generate(**prompts(1), reward_models=rewards, alpha=wrong, **GREEDY)


def test_errors_say_which_model_it_is() -> None:
    base, tuned = tiny("llama"), tiny("gpt2", seed=1)
    untuned = tiny("gpt2", seed=2, n_positions=4)
    with pytest.raises(ValueError, match=r"reward_models\[0\].reference reads at most 4 tokens"):
        base.generate(**prompts(1, 6), reward_models=ImplicitRewardModel(tuned, untuned), **GREEDY)
    with pytest.raises(
        ValueError, match=r"reward_models\[0\].reference cannot go through the base's pass|reward_models"
    ):
        base.generate(**prompts(1, 3), reward_models=ImplicitRewardModel(tuned, untuned), share_backbone=True, **GREEDY)


def test_it_is_no_assistant() -> None:
    base, tuned, untuned = models("other")
    implicit = ImplicitRewardModel(tuned, untuned)
    with pytest.raises(TypeError, match="`assistant_model` is an ImplicitRewardModel"):
        base.generate(**prompts(1), reward_models=implicit, assistant_model=implicit, **GREEDY)
