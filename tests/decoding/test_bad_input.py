"""Bad input gets one clear error before any model runs, and leaves everything as it was."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, BertModel, LlamaForSequenceClassification
from transformers.utils import logging as hf_logging

import genarm_hf

from ..conftest import prompts, tiny

GREEDY = {"max_new_tokens": 5, "do_sample": False}


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    """Base and reward model that must not run, and must be afterwards what they were before."""
    models = tiny("llama"), tiny("gpt2", seed=1)

    def fail(*_: Any) -> None:
        raise AssertionError("a model ran before the error")

    handles = [model.register_forward_pre_hook(fail) for model in models]
    before = [snapshot(model) for model in models]
    yield models
    assert [snapshot(model) for model in models] == before
    for handle in handles:
        handle.remove()


def snapshot(model: Any) -> Any:
    attributes = {name: id(value) for name, value in model.__dict__.items()}
    return (
        attributes,
        [module.training for module in model.modules()],
        model.config.to_dict(),
        model.generation_config.to_dict(),
    )


@pytest.mark.parametrize(
    ("alpha", "error", "message"),
    [
        ("0.5", TypeError, r"`alpha` must be a number.*'0.5'"),
        (True, TypeError, r"`alpha` must be a number"),
        ([0.5, "x"], TypeError, r"`alpha` must be a number"),
        ({"a": 1}, TypeError, r"`alpha` must be a number"),
        (math.nan, ValueError, r"`alpha` must be finite"),
        ([math.inf], ValueError, r"`alpha` must be finite"),
        ([0.1, 0.2], ValueError, r"`alpha` must .*\(1,\).*got shape \(2,\).*alpha\[:, None\]"),
        ([], ValueError, r"`alpha` must .*got shape \(0,\)"),
        (torch.ones(2, 2), ValueError, r"`alpha` must .*got shape \(2, 2\)"),
        (torch.ones(3, 1), ValueError, r"made for a batch of 3, and the inputs have 2 rows"),
        (lambda step: "high", TypeError, r"`alpha` must be a number"),
        (lambda step: math.nan, ValueError, r"`alpha` must be finite"),
        (lambda: 1.0, TypeError, r"`alpha` as a callable takes the step"),
        (torch.ones(0, 1), ValueError, r"`alpha` must .*got shape \(0, 1\)"),
    ],
)
def test_alpha(pair: Any, alpha: Any, error: type, message: str) -> None:
    base, arm = pair
    with pytest.raises(error, match=message):
        base.generate(**prompts(2), reward_models=[arm], alpha=alpha, **GREEDY)


@pytest.mark.parametrize("arguments", [{"reward_models": []}, {"reward_models": None}, {}])
@pytest.mark.parametrize("extra", [{"alpha": 0.5}, {"reward_inputs": {}}, {"output_rewards": True}])
def test_arguments_without_reward_models(pair: Any, arguments: dict, extra: dict) -> None:
    with pytest.raises(ValueError, match=r"needs reward models.*reward_models=\[arm\]"):
        pair[0].generate(**prompts(1), **arguments, **extra, **GREEDY)


def test_guide_without_reward_models(pair: Any) -> None:
    with pytest.raises(ValueError, match="`reward_models` is empty"):
        genarm_hf.guide(pair[0], [])


def test_both_names_of_the_argument(pair: Any) -> None:
    base, arm = pair
    with pytest.raises(ValueError, match="not both"):
        base.generate(**prompts(1), reward_models=[arm], reward_model=arm, **GREEDY)


def test_things_that_are_no_reward_model(pair: Any) -> None:
    base, arm = pair
    classifier = LlamaForSequenceClassification(base.config)
    small = BertConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    for wrong, message in [
        (
            classifier,
            r"reward_models\[1\] is a LlamaForSequenceClassification, a trajectory-level reward model.*causal LM",
        ),
        (
            BertModel(small),
            r"reward_models\[1\] is a BertModel, which has no causal language-modelling head.*causal LM",
        ),
        (BertForMaskedLM(small), r"reward_models\[1\] is a BertForMaskedLM, which has no causal"),
        (tiny("t5"), r"reward_models\[1\] is a T5ForConditionalGeneration, an encoder-decoder"),
        (3, r"reward_models\[1\] must be a reward model, a causal LM, a hub id or a directory, got int"),
        (None, r"reward_models\[1\] must be .*got NoneType"),
    ]:
        with pytest.raises(TypeError, match=message):
            base.generate(**prompts(1), reward_models=[arm, wrong], **GREEDY)


def test_things_that_are_no_base() -> None:
    arm = tiny("gpt2")
    for wrong in (torch.nn.Linear(2, 2), "a name", genarm_hf.guide(tiny("llama"), arm)):
        with pytest.raises(TypeError, match="`model`"):
            genarm_hf.guide(wrong, arm)


def test_a_repository_that_is_not_there(pair: Any) -> None:
    with pytest.raises((OSError, ValueError), match="no-such-directory"):
        pair[0].generate(**prompts(1), reward_models=["./no-such-directory"], alpha=1.0, **GREEDY)


def test_unknown_vocabulary_match(pair: Any) -> None:
    base, _ = pair
    with pytest.raises(ValueError, match=r"vocabulary of 400 tokens and the base one of 48.*`reward_tokenizers=`"):
        base.generate(**prompts(1), reward_models=[tiny("gpt2", vocab_size=400)], **GREEDY)


def test_a_disagreeing_vocabulary_shows_the_first_ids(pair: Any, tokenizer: Any) -> None:
    import copy

    base, arm = pair
    other = copy.deepcopy(tokenizer)
    fields = other.backend_tokenizer.to_str().replace('"b":4', '"b":5').replace('"c":5', '"c":4')
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(fields), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    with pytest.raises(ValueError, match=r"2 of 48 shared ids mean different tokens.*4: 'b' / 'c', 5: 'c' / 'b'"):
        base.generate(**prompts(1), reward_models=[arm], tokenizer=tokenizer, reward_tokenizers=other, **GREEDY)


def test_prompts_longer_than_the_reward_models_positions() -> None:
    base, arm = tiny("llama"), tiny("gpt2", n_positions=8)
    with pytest.raises(ValueError, match=r"reward_models\[0\] reads at most 8 tokens.*its prompt has 9"):
        base.generate(**prompts(1, 9), reward_models=[arm], **GREEDY)
    with pytest.raises(ValueError, match=r"prompt \(6\) plus new tokens \(5\).*`max_new_tokens` of 2 or less"):
        base.generate(**prompts(1, 6), reward_models=[arm], **GREEDY)
    rotary = tiny("qwen2", max_position_embeddings=8)
    with pytest.raises(ValueError, match="its prompt has 9"):
        base.generate(**prompts(1, 2), reward_models=[rotary], reward_inputs=prompts(1, 9), **GREEDY)
    assert base.generate(**prompts(1, 6), reward_models=[rotary], eos_token_id=None, **GREEDY).shape == (1, 11)


@pytest.mark.parametrize(
    ("reward_inputs", "error", "message"),
    [
        (prompts(3), ValueError, r"made for a batch of 3, and the inputs have 2 rows"),
        ([prompts(2), prompts(2)], ValueError, r"one per reward model \(1\); got 2"),
        ("text", TypeError, r"must hold `input_ids`"),
        ({"input_ids": [[1, 2]]}, TypeError, r"must hold `input_ids` of shape \(batch, length\)"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, TypeError, r"must hold `input_ids`"),
        ({"input_ids": torch.ones(2, 2), "attention_mask": None}, TypeError, r"must hold `input_ids`"),
        ({"input_ids": torch.full((2, 3), 48)}, ValueError, r"holds id 48, and the model has 48 tokens"),
        ({"input_ids": torch.full((2, 3), -1)}, ValueError, r"holds id -1, and the model has 48 tokens"),
        (torch.ones(2, 3, dtype=torch.bool), TypeError, r"must hold `input_ids`"),
        (torch.ones(0, 3, dtype=torch.long), TypeError, r"must hold `input_ids`"),
        (prompts(2) | {"attention_mask": [[1, 1]]}, ValueError, r"must have the shape of its `input_ids`.*got list"),
        (prompts(2) | {"attention_mask": torch.ones(2, 3)}, ValueError, r"must have the shape of its `input_ids`"),
        (
            {"input_ids": torch.ones(2, 2, dtype=torch.long), "attention_mask": torch.tensor([[1, 0], [1, 1]])},
            ValueError,
            r"Pad on the left",
        ),
    ],
)
def test_reward_inputs(pair: Any, reward_inputs: Any, error: type, message: str) -> None:
    base, arm = pair
    with pytest.raises(error, match=message):
        base.generate(**prompts(2), reward_models=[arm], reward_inputs=reward_inputs, **GREEDY)


@pytest.mark.parametrize("wrong", ["gpt2", 3, [["x"]]])
def test_things_that_are_no_tokenizer(pair: Any, wrong: Any, tokenizer: Any) -> None:
    base, arm = pair
    with pytest.raises(TypeError, match="must be tokenizers, got"):
        base.generate(**prompts(1), reward_models=[arm], tokenizer=tokenizer, reward_tokenizers=wrong, **GREEDY)


def test_output_rewards_needs_a_dictionary(pair: Any) -> None:
    base, arm = pair
    with pytest.raises(ValueError, match="return_dict_in_generate=True"):
        base.generate(**prompts(1), reward_models=[arm], output_rewards=True, **GREEDY)


def test_a_paged_cache_is_refused(pair: Any) -> None:
    base, arm = pair
    with pytest.raises(ValueError, match=r"reads padding as text. Call `model.generate_batch"):
        base.generate(**prompts(1), reward_models=[arm], cache_implementation="paged", **GREEDY)


def test_continuous_batching_without_reward_models(pair: Any) -> None:
    base, _ = pair
    for call in (lambda **ours: base.generate_batch([[1, 2, 3]], **ours), base.init_continuous_batching):
        with pytest.raises(ValueError, match="`alpha` needs reward models"):
            call(alpha=0.5)


def test_a_cache_that_no_reward_model_has_read() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    prompt = prompts(1, 9)
    with torch.no_grad():
        cache = base(prompt["input_ids"][:, :6], use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"holds 6 tokens, of which the reward models have read 0"):
        base.generate(
            prompt["input_ids"][:, 6:],
            attention_mask=prompt["attention_mask"],
            reward_models=[arm],
            past_key_values=cache,
            **GREEDY,
        )
    with pytest.raises(ValueError, match="no reward model has read"):
        genarm_hf.guide(base, arm)(prompt["input_ids"][:, 6:], past_key_values=cache)


def test_a_reward_model_in_training_mode_is_put_to_eval_and_back(caplog: Any) -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1, resid_pdrop=0.5, embd_pdrop=0.5)
    expected = base.generate(**prompts(2), reward_models=[arm], **GREEDY)
    arm.train()
    arm.transformer.h[0].eval()
    before = [module.training for module in arm.modules()]
    hf_logging.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(base.generate(**prompts(2), reward_models=[arm], **GREEDY), expected)
        base.generate(**prompts(2), reward_models=[arm], **GREEDY)
    assert caplog.text.count("in training mode") == 1
    assert [module.training for module in arm.modules()] == before


def test_an_interrupt_leaves_the_models_as_they_were() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1).train()
    before = [snapshot(model) for model in (base, arm)]
    steps: list[int] = []

    def alpha(step: int) -> float:
        steps.append(step)
        if step == 2:
            raise KeyboardInterrupt
        return 0.7

    with pytest.raises(KeyboardInterrupt):
        base.generate(**prompts(2), reward_models=[arm], alpha=alpha, eos_token_id=None, **GREEDY)
    assert max(steps) == 2
    assert [snapshot(model) for model in (base, arm)] == before


def test_caches_of_their_own_kind_are_refused_or_not_needed() -> None:
    from transformers import XLNetConfig, XLNetLMHeadModel

    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=48, d_model=16, n_layer=1, n_head=2, d_inner=16, pad_token_id=0, eos_token_id=2)
    xlnet = XLNetLMHeadModel(config).eval()
    with pytest.raises(ValueError, match=r"keeps a cache of its own kind.*use_cache=False"):
        xlnet.generate(**prompts(1), reward_models=[tiny("llama")], **GREEDY)


def test_a_guided_forward_is_checked_like_generate(pair: Any) -> None:
    base, arm = pair
    ids = prompts(2)["input_ids"]
    with pytest.raises(ValueError, match="made for a batch of 3, and the inputs have 2 rows"):
        genarm_hf.guide(base, arm, torch.ones(3, 1))(ids)
    with pytest.raises(ValueError, match="made for a batch of 3, and the inputs have 2 rows"):
        base.generate(ids, reward_models=[arm], alpha=lambda step: torch.ones(3, 1), **GREEDY)
    with pytest.raises(ValueError, match="made for a batch of 3, and the inputs have 2 rows"):
        base.generate(ids, reward_models=[arm], alpha=torch.ones(3, 1), reward_inputs=prompts(2), **GREEDY)
    with pytest.raises(ValueError, match="`logits_to_keep` as a number"):
        genarm_hf.guide(base, arm)(ids, logits_to_keep=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="reads at most 8 tokens"):
        genarm_hf.guide(base, tiny("gpt2", n_positions=8))(prompts(1, 12)["input_ids"])


def test_rewards_of_a_prompt_that_is_too_long_are_refused_before_generating(pair: Any) -> None:
    base, arm = pair[0], tiny("gpt2", n_positions=8)
    settings = GREEDY | {"output_rewards": True, "return_dict_in_generate": True}
    with pytest.raises(ValueError, match="reads at most 8 tokens"):
        base.generate(**prompts(1, 12), reward_models=[arm], alpha=0, **settings)


def test_an_encoder_under_a_head_is_refused(pair: Any) -> None:
    small = BertConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(TypeError, match="BertLMHeadModel, which has no causal"):
        pair[0].generate(**prompts(1), reward_models=[BertLMHeadModel(small)], **GREEDY)


def test_classifier_free_guidance_is_refused(pair: Any) -> None:
    base, arm = pair
    with pytest.raises(ValueError, match="`guidance_scale`"):
        base.generate(**prompts(1), reward_models=[arm], guidance_scale=1.5, **GREEDY)


def test_a_forward_puts_reward_models_to_eval_and_back() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1, resid_pdrop=0.5).train()
    guided, ids = genarm_hf.guide(base, arm), prompts(1)["input_ids"]
    assert torch.equal(guided(ids).logits, guided(ids).logits) and arm.training


def test_a_reward_model_in_training_mode_serves_two_threads() -> None:
    import threading

    base, arm = tiny("llama"), tiny("gpt2", seed=1, resid_pdrop=0.5, embd_pdrop=0.5).train()
    settings = {"reward_models": [arm], "do_sample": False, "eos_token_id": None}
    alone = [base.generate(**prompts(1), max_new_tokens=n, **settings) for n in (4, 40)]
    together: dict[int, torch.Tensor] = {}

    def run(index: int, length: int) -> None:
        together[index] = base.generate(**prompts(1), max_new_tokens=length, **settings)

    threads = [threading.Thread(target=run, args=pair) for pair in ((0, 4), (1, 40))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(together[0], alone[0]) and torch.equal(together[1], alone[1]) and arm.training
