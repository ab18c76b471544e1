"""Every mode of generate(), on every kind of architecture, against a stateless reference."""

import threading
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, TextIteratorStreamer, set_seed

import genarm_hf

from ..conftest import EOS, PAD, VOCAB, prompts, tiny
from .reference import StatelessGuidance, reference_greedy

ARCHITECTURES = ["llama", "qwen2", "gpt2", "mistral", "gemma"]
NEW = 14
GREEDY = {"max_new_tokens": NEW, "do_sample": False}
# transformers before 5.15 cannot take back tokens beyond a sliding window, in its own assisted decoding either
WINDOWS_ROLL_BACK = hasattr(DynamicCache, "activate_past_recording")
ROWS = torch.tensor([[0.9, -0.3], [0.0, 1.2], [0.4, 0.0]])
# modes whose tokens must be those of plain greedy decoding
GREEDY_MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 4},
    "static and chunked": {"cache_implementation": "static", "prefill_chunk_size": 4},
    "dict output": {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
}
# modes that are compared with the same stock mode around a stateless base and stateless rewards
STOCK_MODES: dict[str, dict[str, Any]] = {
    "sample": {"do_sample": True, "temperature": 1.0, "top_k": 0},
    "sample warped": {"do_sample": True, "temperature": 0.7, "top_k": 12, "top_p": 0.9},
    "several samples": {"do_sample": True, "num_return_sequences": 3, "top_k": 0},
    "beams": {"num_beams": 4},
    "beams returned": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.6},
    "beam sample": {"num_beams": 3, "do_sample": True, "top_k": 0},
}


def arms_for(kind: str, count: int) -> list[Any]:
    kinds = [kind, *(k for k in ARCHITECTURES if k != kind)]
    return [tiny(kinds[i], seed=10 + i) for i in range(count)]


def tokens(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.sequences


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("arms", [1, 2, 3])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_greedy_modes_equal_the_reference(kind: str, arms: int, padded: bool) -> None:
    base, rewards = tiny(kind), arms_for(kind, arms)
    prompt = prompts(3, 9, seed=arms, padded=padded)
    alpha = {1: 0.8, 2: ROWS, 3: [0.7, -0.4, 0.3]}[arms]
    expected = reference_greedy(base, rewards, alpha, prompt, NEW, EOS)
    for name, mode in GREEDY_MODES.items():
        output = tokens(base.generate(**prompt, reward_models=rewards, alpha=alpha, **GREEDY, **mode))
        assert torch.equal(output, expected), name


@pytest.mark.parametrize("mode", STOCK_MODES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_searching_and_sampling_equal_the_stateless_loop(kind: str, mode: str) -> None:
    base, rewards = tiny(kind), arms_for(kind, 2)
    prompt = prompts(3, 7, seed=5, padded=True)
    settings = {"max_new_tokens": NEW, "do_sample": False} | STOCK_MODES[mode]
    stateless = StatelessGuidance(rewards, ROWS, prompt, normalize="num_beams" in settings)
    set_seed(1)
    expected = base.generate(**prompt, use_cache=False, logits_processor=[stateless], **settings)
    set_seed(1)
    assert torch.equal(base.generate(**prompt, reward_models=rewards, alpha=ROWS, **settings), expected)


@pytest.mark.parametrize("draft", ["reward model", "small base", "prompt lookup"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_speculation_equals_plain_decoding(kind: str, draft: str) -> None:
    if kind in ("mistral", "gemma") and not WINDOWS_ROLL_BACK:
        pytest.skip("this transformers cannot roll sliding windows back, without guidance either")
    base, rewards = tiny(kind), arms_for(kind, 2)
    prompt = prompts(1, 9, seed=3)
    prompt["input_ids"][0, 4:8] = prompt["input_ids"][0, :4]  # something to look up
    expected = reference_greedy(base, rewards, [1.5, 0.5], prompt, NEW, EOS)
    assistants = {
        "reward model": {"assistant_model": rewards[0]},
        "small base": {"assistant_model": tiny("llama", seed=77, num_hidden_layers=1)},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
    }
    set_seed(0)
    output = base.generate(**prompt, reward_models=rewards, alpha=[1.5, 0.5], **GREEDY, **assistants[draft])
    assert torch.equal(output, expected)


def test_the_base_drafts_with_its_first_layers() -> None:
    base, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(1, 8)
    expected = reference_greedy(base, [arm], 0.9, prompt, NEW, EOS)
    assert torch.equal(
        base.generate(**prompt, reward_models=[arm], alpha=0.9, assistant_early_exit=1, **GREEDY), expected
    )
    assert base.config.num_hidden_layers == 2


def test_a_generation_config_by_position() -> None:
    base, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(1, 8)
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=EOS, pad_token_id=PAD)
    expected = reference_greedy(base, [arm], 0.9, prompt, NEW, EOS)
    assert torch.equal(base.generate(prompt["input_ids"], config, reward_models=[arm], alpha=0.9), expected)


def test_speculation_accepts_drafts() -> None:
    """A draft that is right is accepted: fewer base forwards than tokens, or speculation would be for nothing."""
    base, arm = tiny("llama"), tiny("llama", seed=1)
    forwards: list[int] = []
    handle = base.register_forward_hook(lambda *_: forwards.append(1))
    base.generate(
        **prompts(1),
        reward_models=[arm],
        alpha=30.0,
        assistant_model=arm,
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
    )
    handle.remove()
    assert len(forwards) < 12


@pytest.mark.parametrize("arms", [1, 2, 3])
@pytest.mark.parametrize("own_prompts", [False, True], ids=["base's prompt", "own prompts"])
def test_reward_models_read_their_own_prompts(arms: int, own_prompts: bool) -> None:
    base, rewards = tiny("llama"), arms_for("gpt2", arms)
    prompt = prompts(2, 5, seed=1, padded=True)
    reward_prompts = [
        prompts(2, 3 + 4 * i, seed=20 + i, padded=True) if own_prompts or i == 1 else None for i in range(arms)
    ]
    expected = reference_greedy(base, rewards, 0.9, prompt, NEW, EOS, reward_prompts)
    for mode in (*GREEDY_MODES.values(), {"prefill_chunk_size": 2}):
        output = base.generate(
            **prompt, reward_models=rewards, alpha=0.9, reward_inputs=reward_prompts, **GREEDY, **mode
        )
        assert torch.equal(tokens(output), expected), mode


@pytest.mark.parametrize("mode", ["beams returned", "several samples"])
def test_own_prompts_follow_expanded_rows(mode: str) -> None:
    base, rewards = tiny("qwen2"), arms_for("llama", 2)
    prompt, own = prompts(3, 5, seed=1, padded=True), prompts(3, 8, seed=2, padded=True)
    settings = {"max_new_tokens": NEW, "do_sample": False} | STOCK_MODES[mode]
    stateless = StatelessGuidance(rewards, ROWS, prompt, [own, None], normalize="num_beams" in settings)
    set_seed(2)
    expected = base.generate(**prompt, use_cache=False, logits_processor=[stateless], **settings)
    set_seed(2)
    output = base.generate(**prompt, reward_models=rewards, alpha=ROWS, reward_inputs=[own, None], **settings)
    assert torch.equal(output, expected)


def test_own_prompts_in_assisted_decoding() -> None:
    base, rewards = tiny("llama"), arms_for("mistral", 1)
    prompt, own = prompts(1, 5, seed=1), prompts(1, 9, seed=2)
    if not WINDOWS_ROLL_BACK:
        with pytest.raises(ValueError, match=r"reward_models\[0\].*cannot roll back"):
            base.generate(
                **prompt, reward_models=rewards, alpha=1.1, reward_inputs=own, prompt_lookup_num_tokens=2, **GREEDY
            )
        rewards = arms_for("gpt2", 1)
    expected = reference_greedy(base, rewards, 1.1, prompt, NEW, EOS, [own])
    output = base.generate(
        **prompt, reward_models=rewards, alpha=1.1, reward_inputs=own, assistant_model=rewards[0], **GREEDY
    )
    assert torch.equal(output, expected)


@pytest.mark.parametrize("mode", ["plain", "no cache", "static cache", "beams", "sample", "prompt lookup", "assisted"])
@pytest.mark.parametrize("arms", [1, 2, 3])
def test_encoder_decoder_base(arms: int, mode: str) -> None:
    """A T5 base; the reward models read decoder ids."""
    base, rewards = tiny("t5"), arms_for("llama", arms)
    batch = 1 if mode in ("prompt lookup", "assisted") else 3
    alpha = {1: 0.8, 2: ROWS[:batch], 3: [0.7, -0.4, 0.3]}[arms]
    source = prompts(batch, 7, seed=4, padded=True)
    start = {
        "input_ids": torch.zeros(batch, 1, dtype=torch.long),
        "attention_mask": torch.ones(batch, 1, dtype=torch.long),
    }
    extra = {
        "prompt lookup": {"prompt_lookup_num_tokens": 2},
        "beams": {"num_beams": 3},
        "sample": {"do_sample": True, "top_k": 0},
        "assisted": {"assistant_model": tiny("t5", seed=9)},
    }.get(mode, GREEDY_MODES.get(mode, {}))
    settings = GREEDY | extra
    plain = {
        k: v
        for k, v in settings.items()
        if k not in ("prompt_lookup_num_tokens", "assistant_model", "cache_implementation")
    }
    stateless = StatelessGuidance(rewards, alpha, start, normalize=mode == "beams")
    set_seed(3)
    expected = base.generate(**source, logits_processor=[stateless], **plain | {"use_cache": False})
    set_seed(3)
    assert torch.equal(base.generate(**source, reward_models=rewards, alpha=alpha, **settings), expected)


def test_penalties_and_stops_see_the_guided_distribution() -> None:
    """Processors act on guided logits: on the base's own scale, after guidance."""
    from transformers import RepetitionPenaltyLogitsProcessor

    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    prompt = prompts(1, 6)
    guidance, penalty = StatelessGuidance([arm], 0.7, prompt), RepetitionPenaltyLogitsProcessor(1.4)
    ids = prompt["input_ids"]
    for _ in range(NEW):
        logits = base(ids, use_cache=False).logits[:, -1].float()
        ids = torch.cat([ids, penalty(ids, guidance(ids, logits)).argmax(-1, keepdim=True)], 1)
        if ids[0, -1] == EOS:
            break
    output = base.generate(**prompt, reward_models=[arm], alpha=0.7, repetition_penalty=1.4, **GREEDY)
    assert torch.equal(output, ids)


def test_temperature_is_of_the_guided_distribution() -> None:
    """Temperature T divides the guided logits: no rescaling by hand (the official code divides by 1 + alpha)."""
    base, arm = tiny("llama"), tiny("llama", seed=1)
    prompt = prompts(2, 6)
    output = base.generate(
        **prompt, reward_models=[arm], alpha=2.0, max_new_tokens=3, do_sample=True, temperature=0.5, top_k=0,
        return_dict_in_generate=True, output_scores=True, output_logits=True,
    )  # fmt: skip
    for scores, logits in zip(output.scores, output.logits, strict=True):
        assert torch.equal(scores, logits / 0.5)


def test_streaming_in_a_thread(tokenizer: Any) -> None:
    base, arm = tiny("llama"), tiny("llama", seed=1)
    prompt = prompts(1, 6)
    expected = base.generate(**prompt, reward_models=[arm], alpha=0.8, **GREEDY)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    settings = {**prompt, "reward_models": [arm], "alpha": 0.8, "streamer": streamer, **GREEDY}
    thread = threading.Thread(target=base.generate, kwargs=settings)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(expected[0, 6:])


def test_stop_strings(tokenizer: Any) -> None:
    base, arm = tiny("llama"), tiny("llama", seed=1)
    prompt = prompts(1, 6)
    free = base.generate(**prompt, reward_models=[arm], alpha=0.8, **GREEDY)[0, 6:].tolist()
    stop = tokenizer.decode([free[4]])
    output = base.generate(**prompt, reward_models=[arm], alpha=0.8, stop_strings=[stop], tokenizer=tokenizer, **GREEDY)
    assert output[0, 6:].tolist() == free[: free.index(free[4]) + 1]


def test_a_cache_that_comes_back_continues_a_conversation() -> None:
    base, arms = tiny("llama"), arms_for("mistral", 2)
    prompt = prompts(2, 6, seed=2, padded=True)
    guided = {"reward_models": arms, "alpha": [0.8, 0.4], "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    first = base.generate(**prompt, **guided, max_new_tokens=4, return_dict_in_generate=True)
    more = torch.cat([first.sequences, prompts(2, 3, seed=9)["input_ids"]], 1)
    mask = torch.cat([prompt["attention_mask"], torch.ones(2, more.shape[1] - 6, dtype=torch.long)], 1)
    fresh = base.generate(input_ids=more, attention_mask=mask, **guided, max_new_tokens=6)
    resumed = base.generate(
        input_ids=more, attention_mask=mask, **guided, max_new_tokens=6, past_key_values=first.past_key_values
    )
    assert torch.equal(resumed, fresh)


def test_a_prefilled_cache_of_the_base_alone() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    prompt = prompts(1, 9)
    cache = DynamicCache(config=base.config)
    with torch.no_grad():
        base(prompt["input_ids"][:, :6], past_key_values=cache, use_cache=True)
    expected = reference_greedy(base, [arm], 0.9, prompt, NEW, EOS)
    assert torch.equal(
        base.generate(**prompt, reward_models=[arm], alpha=0.9, past_key_values=cache, **GREEDY), expected
    )


def test_prompt_as_embeddings_with_a_reward_prompt() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    prompt = prompts(2, 6, seed=3, padded=True)
    expected = reference_greedy(base, [arm], 0.9, prompt, NEW, EOS, [prompt])
    embeds = base.get_input_embeddings()(prompt["input_ids"])
    output = base.generate(
        inputs_embeds=embeds,
        attention_mask=prompt["attention_mask"],
        reward_models=[arm],
        alpha=0.9,
        reward_inputs=prompt,
        **GREEDY,
    )
    assert torch.equal(output, expected[:, 6:])
    with pytest.raises(ValueError, match=r"inputs_embeds.*reward_inputs"):
        base.generate(
            inputs_embeds=embeds, attention_mask=prompt["attention_mask"], reward_models=[arm], alpha=0.9, **GREEDY
        )


@pytest.mark.parametrize("size", [VOCAB - 5, VOCAB + 7])
def test_vocabularies_that_differ_by_padding(size: int) -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1, vocab_size=size)
    prompt = prompts(3, 6, seed=1, padded=True)
    alpha = torch.tensor([[0.8], [0.0], [-0.5]])
    prompt["input_ids"][2, 1] = VOCAB - 1  # an id that the smaller vocabulary lacks
    expected = reference_greedy(base, [arm], alpha, prompt, NEW, EOS)
    output = base.generate(**prompt, reward_models=[arm], alpha=alpha, **GREEDY)
    assert torch.equal(output, expected)
    assert bool((output[[0, 2], 6:] < size).all())


@pytest.mark.parametrize("arm_kind", ARCHITECTURES)
@pytest.mark.parametrize("base_kind", ARCHITECTURES)
def test_any_mix_of_architectures_and_dtypes(base_kind: str, arm_kind: str) -> None:
    base, arm = tiny(base_kind).to(torch.bfloat16), tiny(arm_kind, seed=1).to(torch.float16)
    prompt = prompts(2, 6, padded=True)
    output = base.generate(**prompt, reward_models=[arm], alpha=0.5, max_new_tokens=3, do_sample=False,
                           return_dict_in_generate=True, output_logits=True)  # fmt: skip
    assert output.logits[0].dtype == torch.float32
    with torch.no_grad():
        mask = prompt["attention_mask"]
        where = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        expected = base(prompt["input_ids"], **where).logits[:, -1].float()
        expected = expected + 0.5 * arm(prompt["input_ids"], **where).logits[:, -1].float().log_softmax(-1)
    torch.testing.assert_close(output.logits[0], expected, atol=0.06, rtol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("places", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_base_and_reward_model_on_other_devices(places: tuple[str, str]) -> None:
    base, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(2, 7, padded=True)
    expected = reference_greedy(base, [arm], 0.9, prompt, NEW, EOS)
    base.to(places[0])
    inputs = {name: tensor.to(places[0]) for name, tensor in prompt.items()}
    output = base.generate(**inputs, reward_models=[arm.to(places[1])], alpha=torch.tensor([[0.9], [0.9]]), **GREEDY)
    assert torch.equal(output.cpu(), expected)


def test_callable_alpha_acts_on_the_next_token() -> None:
    base, arm = tiny("llama"), tiny("llama", seed=1)
    prompt = prompts(2, 6, padded=True)
    schedule = lambda step: [0.0, 1.5, 0.0, 0.0, 2.0][step % 5]  # noqa: E731
    expected = reference_greedy(base, [arm], schedule, prompt, NEW, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=schedule, **GREEDY), expected)
    single = prompts(1, 6)
    expected = reference_greedy(base, [arm], schedule, single, NEW, EOS)
    for mode in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": arm}, {"use_cache": False}):
        assert torch.equal(base.generate(**single, reward_models=[arm], alpha=schedule, **GREEDY, **mode), expected)


def test_callable_alpha_per_row_under_beams() -> None:
    base, rewards = tiny("llama"), arms_for("llama", 2)
    prompt = prompts(3, 6, padded=True)
    schedule = lambda step: ROWS * (1 + step % 2)  # noqa: E731
    stateless = StatelessGuidance(rewards, schedule, prompt, normalize=True)
    expected = base.generate(**prompt, use_cache=False, logits_processor=[stateless], num_beams=3, **GREEDY)
    assert torch.equal(base.generate(**prompt, reward_models=rewards, alpha=schedule, num_beams=3, **GREEDY), expected)


def test_token_rewards_of_what_was_generated() -> None:
    base, rewards = tiny("llama"), [tiny("gpt2", seed=1), tiny("mistral", seed=2)]
    prompt = prompts(2, 6, seed=8, padded=True)
    for mode in ({}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 3}):
        settings = GREEDY | mode
        output = base.generate(
            **prompt, reward_models=rewards, alpha=0.7, output_rewards=True, return_dict_in_generate=True, **settings
        )
        sequences = output.sequences
        new = sequences.shape[1] - 6
        assert output.rewards.shape == (2, len(sequences), new)
        times = len(sequences) // 2
        mask = torch.cat(
            [prompt["attention_mask"].repeat_interleave(times, 0), torch.ones(len(sequences), new, dtype=torch.long)], 1
        )
        for i, arm in enumerate(rewards):
            model = genarm_hf.AutoregressiveRewardModel.from_backbone(arm)
            expected = model.token_rewards(sequences, mask)[:, 6:].detach()
            for row, ids in enumerate(sequences[:, 6:].tolist()):
                end = ids.index(EOS) + 1 if EOS in ids else new
                expected[row, end:] = 0
            torch.testing.assert_close(output.rewards[i], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["decoder ids", "embeddings"])
def test_token_rewards_where_the_prompt_is_not_the_reward_models(how: str) -> None:
    """Behind a decoder's start token, and behind embeddings with a reward prompt of its own."""
    arm, prompt = tiny("gpt2", seed=1), prompts(2, 6, seed=8)
    model = genarm_hf.AutoregressiveRewardModel.from_backbone(arm)
    settings = GREEDY | {"output_rewards": True, "return_dict_in_generate": True, "eos_token_id": None}
    if how == "decoder ids":
        output = tiny("t5").generate(**prompt, reward_models=[arm], alpha=0.5, num_beams=2, **settings)
        read, start = output.sequences, 1
    else:
        base = tiny("llama")
        embeds = base.get_input_embeddings()(prompt["input_ids"])
        output = base.generate(inputs_embeds=embeds, reward_models=[arm], alpha=0.5, reward_inputs=prompt, **settings)
        read, start = torch.cat([prompt["input_ids"], output.sequences], 1), 6
    torch.testing.assert_close(output.rewards[0], model.token_rewards(read)[:, start:].detach(), atol=1e-4, rtol=1e-4)


def test_two_threads_with_the_same_objects() -> None:
    base, rewards = tiny("llama"), arms_for("mistral", 2)
    jobs = [(prompts(2, 5 + i, seed=i, padded=True), [0.3 * i, 0.5]) for i in range(6)]
    alone = [base.generate(**p, reward_models=rewards, alpha=a, max_new_tokens=20, do_sample=False) for p, a in jobs]
    guided = genarm_hf.guide(base, rewards)
    together: dict[int, torch.Tensor] = {}

    def run(index: int) -> None:
        p, a = jobs[index]
        if index % 2:
            together[index] = base.generate(**p, reward_models=rewards, alpha=a, max_new_tokens=20, do_sample=False)
        else:
            together[index] = guided.generate(**p, alpha=a, max_new_tokens=20, do_sample=False)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[i], alone[i]) for i in range(6))
