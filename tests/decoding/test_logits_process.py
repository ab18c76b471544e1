"""The processor gives in stock loops what `generate(reward_models=...)` gives, and follows whatever a loop does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessorList, set_seed

import genarm_hf
from genarm_hf import GenARMLogitsProcessor

from ..conftest import EOS, PAD, VOCAB, prompts, tiny
from .reference import StatelessGuidance, expand, next_logits, reference_greedy, reward_terms

KINDS = ["llama", "gpt2", "mistral"]
NEW = 12
GREEDY = {"max_new_tokens": NEW, "do_sample": False}
ROWS = torch.tensor([[0.9, -0.3], [0.0, 1.2], [0.4, 0.0]])
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "sample": {"do_sample": True, "top_k": 0},
    "sample warped": {"do_sample": True, "temperature": 0.7, "top_k": 12, "top_p": 0.9},
    "several samples": {"do_sample": True, "num_return_sequences": 3, "top_k": 0},
    "beams": {"num_beams": 4},
    "beams returned": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.6},
    "beam sample": {"num_beams": 3, "do_sample": True, "top_k": 0},
}


@lru_cache(maxsize=16)
def model(kind: str, seed: int = 0) -> Any:
    return tiny(kind, seed)


def arms_for(kind: str) -> list[Any]:
    return [model(kind, 10), model(KINDS[(KINDS.index(kind) + 1) % 3], 11)]


@contextmanager
def counted(arm: Any) -> Iterator[list[int]]:
    """Tokens of every forward of a reward model."""
    tokens: list[int] = []
    handle = arm.register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    yield tokens
    handle.remove()


# ---------------------------------------------------------------------- stock loops


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_stock_loops_give_what_generate_gives(kind: str, mode: str, padded: bool) -> None:
    base, arms, prompt = model(kind), arms_for(kind), prompts(3, 9, seed=5, padded=padded)
    set_seed(1)
    expected = base.generate(**prompt, reward_models=arms, alpha=ROWS, **GREEDY | MODES[mode])
    processor = GenARMLogitsProcessor(arms, ROWS, prompt["attention_mask"])
    for _ in range(2):  # the same prompts again: the processor notices that it starts over
        set_seed(1)
        assert torch.equal(base.generate(**prompt, logits_processor=[processor], **GREEDY | MODES[mode]), expected)


@pytest.mark.parametrize("draft", ["reward model", "small base", "prompt lookup"])
@pytest.mark.parametrize("kind", KINDS)
def test_speculation(kind: str, draft: str) -> None:
    """The processor also acts inside the assistant, which then drafts from a guided distribution."""
    base, arms = model(kind), arms_for(kind)
    prompt = prompts(1, 9, seed=4)
    prompt["input_ids"][0, 4:8] = prompt["input_ids"][0, :4]  # something to look up
    assistants = {
        "reward model": {"assistant_model": arms[0]},
        "small base": {"assistant_model": tiny("llama", seed=77, num_hidden_layers=1)},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
    }
    if draft == "prompt lookup":  # which is not quite plain decoding with GPT-2 in transformers 5.8, guided or not
        stateless = StatelessGuidance(arms, [1.5, 0.5], prompt)
        expected = base.generate(**prompt, logits_processor=[stateless], **GREEDY, **assistants[draft])
    else:
        expected = reference_greedy(base, arms, [1.5, 0.5], prompt, NEW, EOS)
    processor = GenARMLogitsProcessor(arms, [1.5, 0.5])
    assert torch.equal(base.generate(**prompt, logits_processor=[processor], **GREEDY, **assistants[draft]), expected)


def test_speculative_sampling_has_the_seeds_tokens() -> None:
    base, arms, prompt = model("llama"), arms_for("llama"), prompts(1, 6, seed=4)
    setting = GREEDY | {"do_sample": True, "top_k": 0, "assistant_model": model("llama", 3)}
    outputs = []
    for processor in (StatelessGuidance(arms, [0.8, 0.2], prompt), GenARMLogitsProcessor(arms, [0.8, 0.2])):
        set_seed(7)
        outputs.append(base.generate(**prompt, logits_processor=[processor], **setting))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("mode", ["greedy", "several samples", "beams returned"])
def test_reward_models_read_their_own_prompts(mode: str) -> None:
    base, arms = model("llama"), arms_for("gpt2")
    prompt, own = prompts(3, 5, seed=1, padded=True), prompts(3, 8, seed=2, padded=True)
    set_seed(2)
    expected = base.generate(
        **prompt, reward_models=arms, alpha=ROWS, reward_inputs=[own, None], **GREEDY | MODES[mode]
    )
    processor = GenARMLogitsProcessor(arms, ROWS, prompt["attention_mask"], [own, None])
    for _ in range(2):
        set_seed(2)
        assert torch.equal(base.generate(**prompt, logits_processor=[processor], **GREEDY | MODES[mode]), expected)


@pytest.mark.parametrize("mode", ["greedy", "beams", "several samples"])
def test_callable_alpha(mode: str) -> None:
    base, arms, prompt = model("llama"), arms_for("mistral"), prompts(3, 6, padded=True)
    schedule = lambda step: ROWS * [0.0, 1.0, 0.0, 0.0, 2.0][step % 5]  # noqa: E731
    set_seed(3)
    expected = base.generate(**prompt, reward_models=arms, alpha=schedule, **GREEDY | MODES[mode])
    processor = GenARMLogitsProcessor(arms, schedule, prompt["attention_mask"])
    set_seed(3)
    assert torch.equal(base.generate(**prompt, logits_processor=[processor], **GREEDY | MODES[mode]), expected)


def test_callable_alpha_in_assisted_decoding() -> None:
    base, arms, prompt = model("llama"), arms_for("mistral"), prompts(1, 6)
    schedule = lambda step: [0.0, 1.5, 0.0, 0.0, 2.0][step % 5]  # noqa: E731
    expected = reference_greedy(base, arms, schedule, prompt, NEW, EOS)
    processor = GenARMLogitsProcessor(arms, schedule)
    for assistant in (model("llama", 3), arms[0]):
        processor.reset()
        assert torch.equal(
            base.generate(**prompt, logits_processor=[processor], assistant_model=assistant, **GREEDY), expected
        )


def test_one_processor_for_many_prompts() -> None:
    base, arms = model("llama"), arms_for("llama")
    processor = GenARMLogitsProcessor(arms, 0.7)
    for seed, batch, length in [(0, 1, 6), (1, 2, 9), (2, 3, 4), (0, 1, 6)]:
        prompt = prompts(batch, length, seed)
        expected = base.generate(**prompt, reward_models=arms, alpha=0.7, **GREEDY)
        assert torch.equal(base.generate(**prompt, logits_processor=[processor], **GREEDY), expected)


@pytest.mark.parametrize("size", [VOCAB - 5, VOCAB + 7])
def test_vocabularies_that_differ_by_padding(size: int) -> None:
    base, arm = model("llama"), tiny("gpt2", seed=1, vocab_size=size)
    prompt = prompts(3, 6, seed=1, padded=True)
    prompt["input_ids"][2, 1] = VOCAB - 1  # an id that the smaller vocabulary lacks
    alpha = torch.tensor([[0.8], [0.0], [-0.5]])
    expected = base.generate(**prompt, reward_models=[arm], alpha=alpha, **GREEDY)
    processor = GenARMLogitsProcessor([arm], alpha, prompt["attention_mask"])
    assert torch.equal(base.generate(**prompt, logits_processor=[processor], **GREEDY), expected)


def test_encoder_decoder_base() -> None:
    base, arms, source = tiny("t5"), arms_for("llama"), prompts(2, 7, seed=4, padded=True)
    for mode in ({}, {"num_beams": 3}):
        expected = base.generate(**source, reward_models=arms, alpha=[0.8, -0.3], **GREEDY | mode)
        processor = GenARMLogitsProcessor(arms, [0.8, -0.3])
        assert torch.equal(base.generate(**source, logits_processor=[processor], **GREEDY | mode), expected)


# ---------------------------------------------------------------------- any loop at all

Edit = Callable[[Tensor, torch.Generator], Tensor]


def _append(ids: Tensor, generator: torch.Generator) -> Tensor:
    count = int(torch.randint(1, 5, (1,), generator=generator))
    return torch.cat([ids, torch.randint(3, VOCAB, (len(ids), count), generator=generator)], 1)


def _roll_back(ids: Tensor, generator: torch.Generator) -> Tensor:
    return ids[:, : ids.shape[1] - int(torch.randint(0, 7, (1,), generator=generator))]


def _permute(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of a prompt become copies of others of the same prompt, as beams do, and may grow."""
    times = len(ids) // BATCH
    parents = [
        row * times + int(torch.randint(0, times, (1,), generator=generator))
        for row in range(BATCH)
        for _ in range(times)
    ]
    ids = ids[parents]
    return _append(ids, generator) if int(torch.randint(0, 2, (1,), generator=generator)) else ids


def _resize(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Another number of rows per prompt."""
    times, new = len(ids) // BATCH, int(torch.randint(1, 4, (1,), generator=generator))
    return ids[[row * times + i % times for row in range(BATCH) for i in range(new)]]


def _replace(ids: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(
        3, VOCAB, (len(ids), int(torch.randint(6, 10, (1,), generator=generator))), generator=generator
    )


def _same(ids: Tensor, generator: torch.Generator) -> Tensor:
    return ids


BATCH = 2
PROMPT = 6
EDITS: dict[str, Edit] = {
    "append": _append,
    "roll back": _roll_back,
    "permute": _permute,
    "resize": _resize,
    "replace": _replace,
    "same": _same,
}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    edits=st.lists(st.sampled_from(sorted(EDITS)), min_size=1, max_size=12),
    masked=st.booleans(),
    own_prompt=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_edits_of_the_text_equal_a_fresh_reading(
    kind: str, edits: list[str], masked: bool, own_prompt: bool, seed: int
) -> None:
    arms, prompt, own = (
        arms_for(kind),
        prompts(BATCH, PROMPT, seed, padded=masked),
        prompts(BATCH, 4, seed + 1, padded=True),
    )
    alpha = torch.tensor([[0.5, -0.2], [0.0, 1.0]])
    processor = GenARMLogitsProcessor(arms, alpha, prompt["attention_mask"], [None, own] if own_prompt else None)
    generator = torch.Generator().manual_seed(seed)
    ids = prompt["input_ids"]
    for edit in [_same, *(EDITS[name] for name in edits)]:
        ids = edit(ids, generator)
        if ids.shape[1] < PROMPT:
            ids = prompt["input_ids"].repeat_interleave(len(ids) // BATCH, 0)
        times = len(ids) // BATCH
        scores = torch.randn(len(ids), VOCAB, generator=generator)
        new = ids[:, PROMPT:]
        contexts = [(ids, _grown(expand(prompt["attention_mask"], times), ids.shape[1]))] * 2
        if own_prompt:
            own_ids = torch.cat([expand(own["input_ids"], times), new], 1)
            contexts[1] = own_ids, _grown(expand(own["attention_mask"], times), own_ids.shape[1])
        expected = scores + reward_terms(arms, expand(alpha, times), contexts, VOCAB)
        torch.testing.assert_close(processor(ids, scores), expected, atol=2e-4, rtol=1e-4)


def _grown(mask: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(mask, (0, length - mask.shape[1]), value=1)


def test_a_loop_may_write_into_its_ids() -> None:
    arm, buffer, scores = model("llama", 5), prompts(1, 20)["input_ids"], torch.zeros(1, VOCAB)
    processor = GenARMLogitsProcessor(arm, 1.0)
    processor(buffer[:, :8], scores)
    processor(buffer[:, :12], scores)
    buffer[:, 9:12] = torch.tensor([3, 4, 5])
    fresh = GenARMLogitsProcessor(arm, 1.0)(buffer[:, :13], scores)
    torch.testing.assert_close(processor(buffer[:, :13], scores), fresh, atol=1e-5, rtol=1e-4)


def test_scores_may_be_padded_differently() -> None:
    """As those of an assistant and its target: an answer for one width is none for the other."""
    arm, ids = tiny("gpt2", seed=1, vocab_size=VOCAB - 3), prompts(1, 8)["input_ids"].clamp_max(VOCAB - 6)
    processor = GenARMLogitsProcessor(arm, 1.0)
    for size in (VOCAB - 5, VOCAB, VOCAB - 5, VOCAB):
        text = torch.cat([ids, ids.new_full((1, 1), size - 1)], 1)
        for part in (text[:, :8], text, text):
            expected = GenARMLogitsProcessor(arm, 1.0)(part, torch.zeros(1, size))
            torch.testing.assert_close(processor(part, torch.zeros(1, size)), expected, atol=1e-5, rtol=1e-4)


def test_rows_of_an_engine_come_and_go() -> None:
    """Without masks and per-row settings, rows need no fixed order or number."""
    arms = arms_for("llama")
    processor = GenARMLogitsProcessor(arms, [0.5, 0.5])
    ids = prompts(3, 7)["input_ids"]
    for rows in ([0, 1, 2], [2, 0], [1, 1, 0, 0, 1], [4, 1]):
        ids = torch.cat([ids[rows], torch.randint(3, VOCAB, (len(rows), 1))], 1)
        scores = torch.randn(len(ids), VOCAB)
        expected = scores + reward_terms(arms, torch.tensor([[0.5, 0.5]]), [(ids, torch.ones_like(ids))] * 2, VOCAB)
        torch.testing.assert_close(processor(ids, scores), expected, atol=2e-4, rtol=1e-4)


# ---------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("mode", ["greedy", "several samples", "beams returned", "beam sample"])
def test_one_token_per_step(mode: str) -> None:
    base, arm, prompt = model("llama"), model("mistral", 5), prompts(2, 7, padded=True)
    with counted(arm) as tokens:
        processor = GenARMLogitsProcessor(arm, 0.8, prompt["attention_mask"])
        set_seed(0)
        base.generate(**prompt, logits_processor=[processor], eos_token_id=None, **GREEDY | MODES[mode])
    assert tokens == [7] + [1] * (NEW - 1)


def test_speculation_reads_no_position_twice_for_nothing() -> None:
    """A drafted position is asked about by the assistant and by the target: the second time is answered from memory."""
    base, arm, prompt = model("llama"), model("llama", 5), prompts(1, 7)
    with counted(arm) as tokens:
        calls: list[int] = []
        processor = GenARMLogitsProcessor(arm, 1.0)
        spy = lambda ids, scores: calls.append(ids.shape[1]) or processor(ids, scores)  # noqa: E731
        base.generate(
            **prompt,
            logits_processor=[spy],
            assistant_model=model("llama", 3),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
        )
    assert tokens[0] == 7 and set(tokens[1:]) == {1}
    assert len(tokens) < len(calls) * 2 / 3


def test_a_sliding_window_is_read_anew_at_most_once() -> None:
    """The cache starts to record at the first rollback, where transformers can."""
    from transformers import DynamicCache

    arm, scores = model("mistral", 5), torch.zeros(1, VOCAB)
    processor, text = GenARMLogitsProcessor(arm, 1.0), prompts(1, 10)["input_ids"]
    processor(text, scores)
    with counted(arm) as tokens:
        for rejected in (0, 0, 2, 0, 0, 1, 0, 2):
            text = torch.cat([text[:, : text.shape[1] - rejected], torch.randint(3, VOCAB, (1, 3))], 1)
            processor(text, scores)
    records = hasattr(DynamicCache, "activate_past_recording")
    assert sum(count > 3 for count in tokens) == (1 if records else 3)


def test_alpha_zero_changes_and_runs_nothing() -> None:
    arm, prompt = model("llama", 5), prompts(2, 7)
    scores = torch.randn(2, VOCAB, dtype=torch.bfloat16)
    with counted(arm) as tokens:
        for alpha in (0.0, torch.zeros(2, 1), lambda step: 0):
            assert GenARMLogitsProcessor(arm, alpha)(prompt["input_ids"], scores) is scores
    assert tokens == []


def test_only_reward_models_that_count_are_read() -> None:
    arms, ids = arms_for("llama"), prompts(2, 7)["input_ids"]
    with counted(arms[0]) as off, counted(arms[1]) as on:
        GenARMLogitsProcessor(arms, [0.0, 1.0])(ids, torch.zeros(2, VOCAB))
    assert (off, on) == ([], [7])


# ---------------------------------------------------------------------- scores


def test_log_probs_stay_log_probs() -> None:
    arm, ids = model("llama", 5), prompts(2, 7)["input_ids"]
    logits = torch.randn(2, VOCAB) + 3
    guided = logits + 0.5 * next_logits(arm, ids, torch.ones_like(ids))[:, 0].log_softmax(-1)
    for scores, renormalize, expected in [
        (logits, None, guided),
        (logits, True, guided.log_softmax(-1)),
        (logits.log_softmax(-1), None, guided.log_softmax(-1)),
        (logits.log_softmax(-1), False, guided - logits.logsumexp(-1, keepdim=True)),
    ]:
        output = GenARMLogitsProcessor(arm, 0.5, renormalize=renormalize)(ids, scores)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


def test_masked_tokens_stay_masked() -> None:
    arm, ids = model("llama", 5), prompts(2, 7)["input_ids"]
    scores = torch.randn(2, VOCAB).log_softmax(-1)
    scores[0] = -torch.inf  # a beam without any continuation
    scores[1, :10] = -torch.inf
    output = GenARMLogitsProcessor(arm, 0.5)(ids, scores)
    assert bool((output[0] == -torch.inf).all()) and bool((output[1, :10] == -torch.inf).all())
    assert float(output[1].logsumexp(-1)) == pytest.approx(0, abs=1e-5)


def test_half_precision_scores_are_combined_in_float32() -> None:
    arm, ids = model("llama", 5), prompts(1, 7)["input_ids"]
    scores = torch.randn(1, VOCAB).bfloat16()
    output = GenARMLogitsProcessor(arm, 0.5)(ids, scores)
    expected = scores.float() + 0.5 * next_logits(arm, ids, torch.ones_like(ids))[:, 0].log_softmax(-1)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_defaults_come_from_the_reward_model() -> None:
    arm = genarm_hf.AutoregressiveRewardModel.from_backbone(tiny("llama", 5), alpha=0.3).eval()
    ids, scores = prompts(1, 7)["input_ids"], torch.randn(1, VOCAB)
    assert torch.equal(GenARMLogitsProcessor(arm)(ids, scores), GenARMLogitsProcessor(arm.backbone, 0.3)(ids, scores))


def test_it_is_an_ordinary_processor() -> None:
    processor = GenARMLogitsProcessor(model("llama", 5), 0.3)
    ids, scores = prompts(1, 7)["input_ids"], torch.randn(1, VOCAB)
    assert LogitsProcessorList([processor])(ids, scores).shape == scores.shape
    assert processor.supports_continuous_batching is False


def test_an_error_leaves_nothing_half_read() -> None:
    arm, ids = tiny("llama", 5), prompts(1, 9)["input_ids"]
    processor, scores = GenARMLogitsProcessor(arm, 0.3), torch.randn(1, VOCAB)
    processor(ids[:, :7], scores)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    handle = arm.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        processor(ids[:, :8], scores)
    handle.remove()
    assert torch.allclose(processor(ids, scores), GenARMLogitsProcessor(arm, 0.3)(ids, scores), atol=1e-5)


def test_a_training_reward_model_is_put_to_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    from genarm_hf.decoding import logits_process

    said: list[str] = []
    monkeypatch.setattr(logits_process.logger, "warning_once", said.append, raising=False)
    arm = tiny("gpt2").train()
    GenARMLogitsProcessor(arm)
    assert not arm.training and "training mode" in said[0]
    GenARMLogitsProcessor(arm)
    assert len(said) == 1


# ---------------------------------------------------------------------- bad input


def test_what_does_not_fit_is_refused_at_once() -> None:
    arms, mask = arms_for("llama"), prompts(3, 6, padded=True)["attention_mask"]
    with pytest.raises(ValueError, match="reward_models"):
        GenARMLogitsProcessor([])
    with pytest.raises(ValueError, match=r"alpha.*\(2,\)"):
        GenARMLogitsProcessor(arms, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"attention_mask.*3 rows.*2"):
        GenARMLogitsProcessor(arms, ROWS[:2], mask)
    with pytest.raises(ValueError, match="padded on the right"):
        GenARMLogitsProcessor(arms, 1.0, mask.flip(-1))
    with pytest.raises(TypeError, match="attention_mask"):
        GenARMLogitsProcessor(arms, 1.0, mask.tolist())
    with pytest.raises(ValueError, match="reward_tokenizers"):
        GenARMLogitsProcessor(arms, 1.0, reward_tokenizers=[None])
    with pytest.raises(TypeError, match="T5"):
        GenARMLogitsProcessor(tiny("t5"))
    with pytest.raises(ValueError, match="tokenizer"):
        GenARMLogitsProcessor(arms, 1.0, reward_inputs={"input_ids": torch.tensor([[VOCAB + 2]])})


def test_a_mask_serves_its_own_batch() -> None:
    processor = GenARMLogitsProcessor(model("llama", 5), 1.0, prompts(3, 6, padded=True)["attention_mask"])
    with pytest.raises(ValueError, match=r"batch of 3.*4 rows"):
        processor(prompts(4, 6)["input_ids"], torch.zeros(4, VOCAB))
    with pytest.raises(ValueError, match=r"attention_mask.*6 tokens.*5"):
        processor(prompts(3, 5)["input_ids"], torch.zeros(3, VOCAB))
    with pytest.raises(ValueError, match="scores"):
        processor(prompts(3, 6)["input_ids"], torch.zeros(2, VOCAB))
    mask = prompts(3, 6)["attention_mask"]
    with pytest.raises(ValueError, match=r"`attention_mask` has 3 rows, and `alpha`.* 2"):
        GenARMLogitsProcessor(model("llama", 5), lambda step: torch.ones(2, 1), mask)
    scheduled = GenARMLogitsProcessor(model("llama", 5), lambda step: torch.ones(1 + step, 1), mask)
    with pytest.raises(ValueError, match=r"alpha.*2 rows.*batch of 3"):
        scheduled(prompts(6, 7)["input_ids"], torch.zeros(6, VOCAB))


def test_another_vocabulary_is_refused(tokenizer: Any) -> None:
    ids = prompts(1, 6)["input_ids"]
    processor = GenARMLogitsProcessor(model("llama", 5), 1.0)
    with pytest.raises(ValueError, match=r"reward_models\[0\].*vocabulary"):
        processor(ids, torch.zeros(1, 1000))
    other = _shifted(tokenizer)
    processor = GenARMLogitsProcessor(model("llama", 5), 1.0, tokenizer=tokenizer, reward_tokenizers=other)
    with pytest.raises(ValueError, match="different tokens"):
        processor(ids, torch.zeros(1, VOCAB))
    GenARMLogitsProcessor(
        model("llama", 5), 1.0, base=model("llama"), tokenizer=tokenizer, reward_tokenizers=tokenizer
    )(ids, torch.zeros(1, VOCAB))


def _shifted(tokenizer: Any) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    moved = {token: index for index, token in enumerate(tokens[:5] + tokens[6:] + tokens[5:6])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(moved, [], unk_token="<pad>")), pad_token="<pad>"
    )


def test_texts_that_outgrow_the_positions() -> None:
    arm = tiny("gpt2", seed=1, n_positions=10)
    processor = GenARMLogitsProcessor(arm, 1.0)
    with pytest.raises(ValueError, match=r"at most 10 tokens.*has 11"):
        processor(prompts(1, 11)["input_ids"], torch.zeros(1, VOCAB))
    ids = prompts(1, 11)["input_ids"]
    processor(ids[:, :10], torch.zeros(1, VOCAB))
    with pytest.raises(ValueError, match=r"prompt \(10\) plus new tokens \(1\)"):
        processor(ids, torch.zeros(1, VOCAB))


def test_padding_ids_are_only_known_by_the_mask() -> None:
    """Without a mask, every id is a token."""
    arm, prompt = model("llama", 5), prompts(2, 6, padded=True)
    assert PAD in prompt["input_ids"]
    scores = torch.zeros(2, VOCAB)
    with_mask = GenARMLogitsProcessor(arm, 1.0, prompt["attention_mask"])(prompt["input_ids"], scores)
    without = GenARMLogitsProcessor(arm, 1.0)(prompt["input_ids"], scores)
    assert not torch.allclose(with_mask[0], without[0]) and torch.allclose(with_mask[1], without[1], atol=1e-5)


def test_arguments_of_other_kinds() -> None:
    arm = tiny("gpt2")
    for wrong in ("name", 3, torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="`base` must be the model whose scores are guided"):
            GenARMLogitsProcessor(arm, base=wrong)
    processor, ids = GenARMLogitsProcessor(arm), prompts(1)["input_ids"]
    for wrong in (None, torch.ones(1, 48, dtype=torch.long), [0.0]):
        with pytest.raises(TypeError, match="`scores` must be a tensor of logits"):
            processor(ids, wrong)
    with pytest.raises(TypeError, match="`input_ids` must be a tensor of token ids"):
        processor([[5, 6]], torch.zeros(1, 48))
