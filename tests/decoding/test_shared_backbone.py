"""LoRA reward models on the base's weights: one pass equals separate passes, in every mode."""

from typing import Any

import pytest
import torch
from transformers import set_seed

import genarm_hf
from genarm_hf.decoding.shared_backbone import why_not_shared

from ..conftest import EOS, prompts, tiny
from .reference import reference_greedy

peft = pytest.importorskip("peft")

GREEDY = {"max_new_tokens": 10, "do_sample": False}
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj", "gate_proj"],
    "qwen2": ["q_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "mistral": ["q_proj", "k_proj", "down_proj"],
    "gemma": ["q_proj", "v_proj", "o_proj"],
}
ROWS = torch.tensor([[0.9, -0.3], [0.0, 1.2], [0.4, 0.0]])
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 3},
    "static and chunked": {"cache_implementation": "static", "prefill_chunk_size": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 2, "top_k": 0},
    "beam sample": {"do_sample": True, "num_beams": 2, "top_k": 0},
}


def adapted(base: Any, seed: int, **changes: Any) -> Any:
    """A LoRA reward model on the base's own tensors."""
    from genarm_hf.adapters import share_weights

    config = {
        "r": 2 + seed,
        "target_modules": TARGETS.get(base.config.model_type, TARGETS["gemma"]),
        "init_lora_weights": False,
    } | changes
    config["fan_in_fan_out"] = base.config.model_type == "gpt2"
    torch.manual_seed(seed)
    return peft.get_peft_model(share_weights(base), peft.LoraConfig(**config)).eval()


def count_rows(module: Any) -> list[int]:
    rows: list[int] = []
    module.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
    return rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TARGETS)
def test_one_pass_equals_separate_passes(kind: str, mode: str) -> None:
    base = tiny(kind)
    arms = [adapted(base, 1), adapted(base, 3)]
    assert [why_not_shared(base, arm.get_base_model()) for arm in arms] == [None, None]
    prompt, settings = prompts(3, 7, seed=2, padded=True), GREEDY | MODES[mode]
    set_seed(0)
    separate = base.generate(**prompt, reward_models=arms, alpha=ROWS, share_backbone=False, **settings)
    set_seed(0)
    assert torch.equal(
        base.generate(**prompt, reward_models=arms, alpha=ROWS, share_backbone=True, **settings), separate
    )


@pytest.mark.parametrize(
    "mode", [{"prompt_lookup_num_tokens": 2}, {"assistant_model": "arm"}, {"assistant_model": "small"}]
)
def test_speculation_in_one_pass(mode: dict[str, Any]) -> None:
    base = tiny("llama")
    arms = [adapted(base, 1), adapted(base, 3)]
    prompt = prompts(1, 8)
    assistants = {"arm": arms[0].get_base_model(), "small": tiny("llama", seed=9, num_hidden_layers=1)}
    mode = {key: assistants.get(value, value) for key, value in mode.items()}
    expected = reference_greedy(base, [arm.get_base_model() for arm in arms], [0.9, 0.4], prompt, 10, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=arms, alpha=[0.9, 0.4], **GREEDY, **mode), expected)


def test_it_is_taken_by_itself_and_runs_the_base_once() -> None:
    base = tiny("llama")
    arms = [adapted(base, 1), adapted(base, 3)]
    guided = genarm_hf.guide(base, arms, [0.5, 0.5])
    shared = guided._guidance.shared_with(base)
    rows = count_rows(shared.joint.model.embed_tokens)
    ran = [count_rows(model.get_input_embeddings()) for model in (base, *arms)]
    guided.generate(**prompts(2, 6), eos_token_id=None, **GREEDY)
    assert rows == [6] * 10 and ran == [[], [], []]


def test_mixed_with_a_reward_model_of_its_own_weights() -> None:
    base = tiny("llama")
    arms = [tiny("gpt2", seed=4), adapted(base, 1), tiny("mistral", seed=5)]
    prompt, alpha = prompts(2, 6, padded=True), [0.4, 0.8, -0.3]
    inner = [arms[0], arms[1].get_base_model(), arms[2]]
    expected = reference_greedy(base, inner, alpha, prompt, 10, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=arms, alpha=alpha, **GREEDY), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TARGETS)
def test_prompts_of_their_own_in_one_pass(kind: str, mode: str) -> None:
    """One reads the base's prompt, one its own, shorter or longer; none runs a pass of its own."""
    base = tiny(kind)
    length = 4 if (len(kind) + len(mode)) % 2 else 9
    arms, own = [adapted(base, 1), adapted(base, 3)], prompts(3, length, seed=7, padded=True)
    ran = [count_rows(arm.get_input_embeddings()) for arm in arms]
    prompt, settings = prompts(3, 7, seed=2, padded=True), GREEDY | MODES[mode]
    guided = {"reward_models": arms, "alpha": ROWS, "reward_inputs": [None, own]} | settings
    set_seed(0)
    shared = base.generate(**prompt, **guided, share_backbone=True)
    assert ran == [[], []]
    set_seed(0)
    assert torch.equal(shared, base.generate(**prompt, **guided, share_backbone=False))
    assert ran[0] and ran[1]


@pytest.mark.parametrize(
    "mode", [{"prompt_lookup_num_tokens": 2}, {"assistant_model": "arm"}, {"assistant_model": "small"}]
)
def test_speculation_behind_prompts_of_their_own(mode: dict[str, Any]) -> None:
    base = tiny("llama")
    arms, own = [adapted(base, 1), adapted(base, 3)], prompts(1, 11, seed=7)
    prompt = prompts(1, 8)
    assistants = {"arm": arms[0].get_base_model(), "small": tiny("llama", seed=9, num_hidden_layers=1)}
    mode = {key: assistants.get(value, value) for key, value in mode.items()}
    inner = [arm.get_base_model() for arm in arms]
    expected = reference_greedy(base, inner, [0.9, 0.4], prompt, 10, EOS, [own, None])
    guided = {"reward_models": arms, "alpha": [0.9, 0.4], "reward_inputs": [own, None]}
    assert torch.equal(base.generate(**prompt, **guided, **GREEDY, **mode), expected)


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}])
def test_outputs_and_caches_behind_prompts_of_their_own(cache: dict[str, Any]) -> None:
    """Whatever the call returns speaks of the base's text; rows behind several prompts cannot be gone on with."""
    prompt, own = prompts(2, 6), prompts(2, 9, seed=7)
    settings = {"return_dict_in_generate": True, "output_attentions": True, "output_hidden_states": True, **GREEDY}
    outputs = []
    for share in (False, True):  # a base of its own for each: static caches are as long as the longest before
        base = tiny("llama")
        base.set_attn_implementation("eager")
        guided = {"reward_models": [adapted(base, 1)], "alpha": 0.5, "reward_inputs": own}
        outputs.append(base.generate(**prompt, **guided, **settings, **cache, share_backbone=share))
    separate, shared = outputs
    for name in ("attentions", "hidden_states"):
        for ours, theirs in zip(shared[name], separate[name], strict=True):
            assert [item.shape for item in ours] == [item.shape for item in theirs]
            torch.testing.assert_close(ours[-1], theirs[-1], atol=1e-4, rtol=1e-4)
    assert int(shared.past_key_values.get_seq_length()) == int(separate.past_key_values.get_seq_length())
    more = torch.cat([shared.sequences, prompts(2, 3, seed=9)["input_ids"]], 1)
    for change in ({}, {"reward_inputs": None}):
        with pytest.raises(ValueError, match="reward models on the base's weights read prompts of their own"):
            base.generate(more, **guided | change, max_new_tokens=3, past_key_values=shared.past_key_values)


def test_a_static_cache_of_the_users_has_no_room_for_longer_prompts() -> None:
    from transformers import StaticCache

    base = tiny("llama")
    arm, prompt, own = adapted(base, 1), prompts(2, 6), prompts(2, 9, seed=7)
    ran = count_rows(arm.get_input_embeddings())
    expected = reference_greedy(base, [arm.get_base_model()], 0.8, prompt, 10, EOS, [own])
    ran.clear()
    cache = StaticCache(config=base.config, max_cache_len=16)
    guided = {"reward_models": [arm], "alpha": 0.8, "reward_inputs": own}
    assert torch.equal(base.generate(**prompt, **guided, **GREEDY, past_key_values=cache), expected) and ran


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}])
def test_a_cache_behind_several_prompts_is_refused_after_a_reset(cache: dict[str, Any]) -> None:
    base = tiny("llama")
    arm, prompt = adapted(base, 1), prompts(2, 6)
    guided = {"reward_models": [arm], "alpha": 0.5, **GREEDY}
    settings = {"return_dict_in_generate": True, **cache}
    past = base.generate(**prompt, **guided, **settings, reward_inputs=prompts(2, 9, seed=7)).past_key_values
    past.reset()
    if past.get_seq_length():
        pytest.skip("dynamic caches of this transformers stay where they are when they are reset")
    with pytest.raises(ValueError, match="prompts of their own"):
        base.generate(**prompts(2, 6, seed=5), **guided, past_key_values=past)


def test_positions_of_the_base_stay_its_own() -> None:
    """Behind padding on the right, and where the user passes them: a reward model next to nothing changes nothing."""
    base = tiny("llama")
    arm, own, prompt = adapted(base, 1), prompts(2, 9, seed=7), prompts(2, 6)
    prompt["attention_mask"][0, 4:] = 0
    nothing = {"reward_models": [arm], "alpha": 1e-9, **GREEDY}
    for extra in ({}, {"position_ids": torch.arange(6)[None] * 3 + 5}):
        expected = base.generate(**prompt, **GREEDY, **extra)
        assert torch.equal(base.generate(**prompt, **nothing, **extra, reward_inputs=own), expected)
        assert torch.equal(base.generate(**prompt, **nothing, **extra), expected)


def test_rotary_positions_that_depend_on_the_longest_row() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    base = tiny("llama", rope_parameters=rope | {"original_max_position_embeddings": 16})
    arm, prompt, own = adapted(base, 1), prompts(2, 6), prompts(2, 14, seed=7)
    guided = {"reward_models": [arm], "alpha": 0.8, "reward_inputs": own, "max_new_tokens": 6, "do_sample": False}
    expected = base.generate(**prompt, **guided, share_backbone=False)
    assert torch.equal(base.generate(**prompt, **guided), expected)
    with pytest.raises(ValueError, match=r"`share_backbone=True`.*depend on the longest text"):
        base.generate(**prompt, **guided, share_backbone=True)


@pytest.mark.parametrize("kind", ["mistral", "gemma"])
@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_attention_of_windows_behind_prompts_of_their_own(kind: str, cache: dict[str, Any]) -> None:
    base = tiny(kind)
    base.set_attn_implementation("eager")
    arm, prompt, own = adapted(base, 1), prompts(2, 8), prompts(2, 11, seed=7)
    settings = {"return_dict_in_generate": True, "output_attentions": True, **GREEDY, **cache}
    shared, separate = (
        base.generate(
            **prompt, reward_models=[arm], alpha=0.5, reward_inputs=own, share_backbone=share, **settings
        ).attentions
        for share in (True, False)
    )
    for ours, theirs in zip(shared, separate, strict=True):
        for layer, other in zip(ours, theirs, strict=True):
            if layer.shape == other.shape or "cache_implementation" not in cache:
                torch.testing.assert_close(layer, other, atol=1e-4, rtol=1e-4)


def test_a_much_longer_prompt_is_read_apart_unless_told_otherwise() -> None:
    base = tiny("llama")
    arm, prompt, own = adapted(base, 1), prompts(2, 6), prompts(2, 40, seed=7)
    ran = count_rows(arm.get_input_embeddings())
    guided = {"reward_models": [arm], "alpha": 0.8, "reward_inputs": own, "eos_token_id": None, "do_sample": False}
    for share, new_tokens, apart in ((None, 30, True), (None, 34, False), (True, 30, False)):
        ran.clear()
        base.generate(**prompt, **guided, share_backbone=share, max_new_tokens=new_tokens)
        assert bool(ran) is apart


def test_a_forward_reads_prompts_of_their_own_apart() -> None:
    base = tiny("llama")
    arm, ids, own = adapted(base, 1), prompts(2, 6)["input_ids"], prompts(2, 9, seed=7)
    with torch.no_grad():
        logits = [
            genarm_hf.guide(base, arm, 0.8, reward_inputs=own, share_backbone=share)(ids).logits
            for share in (None, False)
        ]
    assert torch.equal(*logits)


def test_a_scheduled_alpha() -> None:
    base = tiny("llama")
    arm, prompt = adapted(base, 1), prompts(2, 6, padded=True)
    schedule = lambda step: float(step % 2)  # noqa: E731
    expected = reference_greedy(base, [arm.get_base_model()], schedule, prompt, 10, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=schedule, **GREEDY), expected)


def test_lora_on_embeddings_and_head_and_with_rank_stabilisation() -> None:
    base = tiny("llama")
    arms = [adapted(base, 1, target_modules=["embed_tokens", "lm_head", "q_proj"]), adapted(base, 3, use_rslora=True)]
    prompt = prompts(2, 6, padded=True)
    expected = reference_greedy(base, [arm.get_base_model() for arm in arms], 0.7, prompt, 10, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=arms, alpha=0.7, share_backbone=True, **GREEDY), expected)


@pytest.mark.parametrize("targets", [TARGETS["llama"], ["embed_tokens", "lm_head", "q_proj"]])
def test_float32_adapters_on_a_base_of_half_precision(targets: list[str]) -> None:
    """PEFT's own choice where it attaches an adapter to such a base."""
    base = tiny("llama").to(torch.bfloat16)
    arms = [adapted(base, 1, target_modules=targets), adapted(base, 3, target_modules=targets)]
    arms[1].to(torch.bfloat16)
    assert {p.dtype for name, p in arms[0].named_parameters() if "lora_" in name} == {torch.float32}
    assert [why_not_shared(base, arm.get_base_model()) for arm in arms] == [None, None]
    ids = prompts(2, 7)["input_ids"]
    with torch.no_grad():
        shared, separate = (
            genarm_hf.guide(base, arms, 0.7, share_backbone=share)(ids).logits for share in (True, False)
        )
        plain = base(ids).logits
    torch.testing.assert_close(shared, separate, atol=0.15, rtol=0.02)
    assert (shared - plain).abs().mean() > 1


def test_an_adapter_inside_the_very_base_is_taken_out_of_it() -> None:
    """`PeftModel(base)` changes the base in place; guiding that base by it means the base as it was."""
    base, plain = tiny("llama"), tiny("llama")
    torch.manual_seed(1)
    arm = peft.get_peft_model(
        base, peft.LoraConfig(r=3, target_modules=TARGETS["llama"], init_lora_weights=False)
    ).eval()
    prompt = prompts(2, 6, padded=True)
    before = base(**prompt).logits
    expected = reference_greedy(plain, [base], 0.7, prompt, 10, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=0.7, **GREEDY), expected)
    assert torch.equal(arm.generate(**prompt, reward_models=[arm], alpha=0.7, **GREEDY), expected)
    assert torch.equal(base(**prompt).logits, before)


def test_alpha_zero_and_unguided_calls_are_the_base_untouched() -> None:
    base, plain = tiny("llama"), tiny("llama")
    arm, prompt = adapted(base, 1), prompts(2, 6, padded=True)
    modules = {name: id(module) for name, module in base.named_modules()}
    base.requires_grad_(True)
    guided = base.generate(**prompt, reward_models=[arm], alpha=0.7, **GREEDY)
    expected = plain.generate(**prompt, **GREEDY)
    assert torch.equal(base.generate(**prompt, **GREEDY), expected) and not torch.equal(guided, expected)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=0, **GREEDY), expected)
    assert {name: id(module) for name, module in base.named_modules()} == modules
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_no_weight_is_held_twice() -> None:
    base = tiny("llama")
    arms = [adapted(base, 1), adapted(base, 3)]
    joint = genarm_hf.guide(base, arms)._guidance.shared_with(base).joint
    own = {parameter.data_ptr() for parameter in base.parameters()}
    assert {parameter.data_ptr() for parameter in joint.parameters()} <= own


def test_new_adapter_weights_are_seen() -> None:
    base = tiny("llama")
    arm, prompt = adapted(base, 1), prompts(2, 6, padded=True)
    base.generate(**prompt, reward_models=[arm], alpha=0.9, **GREEDY)
    with torch.no_grad():
        for name, parameter in arm.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-2)
    expected = reference_greedy(base, [arm.get_base_model()], 0.9, prompt, 10, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=0.9, **GREEDY), expected)


def test_a_conversation_goes_on_and_foreign_rows_are_refused() -> None:
    base = tiny("llama")
    arm, other, prompt = adapted(base, 1), adapted(base, 3), prompts(2, 6)
    guided = {"reward_models": [arm], "alpha": 0.8, "do_sample": False, "eos_token_id": None}
    first = base.generate(**prompt, **guided, max_new_tokens=4, return_dict_in_generate=True)
    more = torch.cat([first.sequences, prompts(2, 3, seed=9)["input_ids"]], 1)
    resumed = base.generate(more, **guided, max_new_tokens=6, past_key_values=first.past_key_values)
    assert torch.equal(resumed, base.generate(more, **guided, max_new_tokens=6))
    for change in (
        {"reward_models": [other]},
        {"alpha": 0.0},
        {"share_backbone": False, "reward_models": [tiny("gpt2")]},
    ):
        first = base.generate(**prompt, **guided, max_new_tokens=4, return_dict_in_generate=True)
        with pytest.raises(ValueError, match="other reward models on the base's weights"):
            base.generate(more, **guided | change, max_new_tokens=6, past_key_values=first.past_key_values)


def test_forward_step_by_step_and_cache_operations() -> None:
    base = tiny("llama")
    arms = [adapted(base, 1), adapted(base, 3)]
    guided, ids = genarm_hf.guide(base, arms, [0.7, 0.2]), prompts(3, 9)["input_ids"]
    with torch.no_grad():
        whole = guided(ids).logits
        torch.testing.assert_close(
            genarm_hf.guide(base, arms, [0.7, 0.2], share_backbone=False)(ids).logits, whole, atol=1e-4, rtol=1e-4
        )
        cache = guided(ids[:, :6], use_cache=True).past_key_values
        cache.crop(-2)
        cache.batch_select_indices(torch.tensor([2, 0]))
        cache.reorder_cache(torch.tensor([1, 0]))
        cache.batch_repeat_interleave(2)
        rows = ids[[0, 2]].repeat_interleave(2, 0)
        stepped = guided(input_ids=rows[:, 4:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(stepped, whole[[0, 2]].repeat_interleave(2, 0)[:, 4:], atol=1e-4, rtol=1e-4)


def test_output_attentions_are_the_bases() -> None:
    base = tiny("llama")
    base.set_attn_implementation("eager")
    arm, prompt = adapted(base, 1), prompts(2, 6)
    settings = {"return_dict_in_generate": True, "output_attentions": True, "output_hidden_states": True, **GREEDY}
    output = base.generate(**prompt, reward_models=[arm], alpha=0.5, **settings)
    assert output.attentions[0][0].shape[0] == 2 and output.hidden_states[0][-1].shape[0] == 2


@pytest.mark.slow
def test_compiled_forwards_on_a_static_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base's compiled call or the joint pass's own, and those of separate reward models, for every single token."""
    from transformers import CompileConfig

    compiled: list[Any] = []
    stock = type(tiny("llama")).get_compiled_call

    def counting(self: Any, config: Any) -> Any:
        call = stock(self, config)
        return lambda **inputs: (compiled.append(self), call(**inputs))[1]

    monkeypatch.setattr("transformers.PreTrainedModel.get_compiled_call", counting)

    compile_config = CompileConfig(mode="default")
    compile_config._compile_all_devices = True
    static = {"cache_implementation": "static", "compile_config": compile_config}
    base, other, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(2, 7, padded=True)
    for arms, alpha in (([other], [0.9]), ([adapted(base, 1), other], [0.9, 0.3])):
        inner = [arm.get_base_model() if hasattr(arm, "peft_config") else arm for arm in arms]
        expected = reference_greedy(base, inner, alpha, prompt, 10, None)
        compiled.clear()
        guided = {"reward_models": arms, "alpha": alpha, "eos_token_id": None}
        assert torch.equal(base.generate(**prompt, **guided, **GREEDY, **static), expected)
        assert compiled.count(other) == len(compiled) / 2 == 9


def test_loading_with_base_model_shares_by_itself(tmp_path: Any) -> None:
    base = tiny("llama")
    base.save_pretrained(tmp_path / "base")
    base.config._name_or_path = str(tmp_path / "base")
    arm = adapted(base, 1)
    genarm_hf.AutoregressiveRewardModel.from_backbone(arm).save_pretrained(tmp_path / "arm")
    loaded = genarm_hf.AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base)
    prompt = prompts(2, 6, padded=True)
    output = base.generate(**prompt, reward_models=[loaded], alpha=0.8, share_backbone=True, **GREEDY)
    assert torch.equal(output, base.generate(**prompt, reward_models=[arm], alpha=0.8, share_backbone=False, **GREEDY))


def test_what_changes_an_adapter_is_seen() -> None:
    """Scaling, another active adapter, new tensors, disabling and merging, on one guided object."""
    base = tiny("llama")
    arm, ids = adapted(base, 1), prompts(2, 6)["input_ids"]
    torch.manual_seed(5)
    arm.add_adapter("two", peft.LoraConfig(r=3, target_modules=TARGETS["llama"], init_lora_weights=False))
    guided, separate = genarm_hf.guide(base, arm, 1.5), genarm_hf.guide(base, arm, 1.5, share_backbone=False)
    layers = [module for module in arm.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]

    def rescale() -> None:
        for layer in layers:
            layer.scaling["default"] *= 5

    def replace_tensors() -> None:
        for layer in layers:
            layer.lora_B["default"].weight.data = layer.lora_B["default"].weight.data.clone() * -1

    changes = [rescale, replace_tensors, lambda: arm.set_adapter("two"), arm.base_model.disable_adapter_layers]
    with torch.no_grad():
        before = guided(ids).logits
        for change in changes:
            change()
            after = guided(ids).logits
            torch.testing.assert_close(after, separate(ids).logits, atol=1e-4, rtol=1e-4)
            assert not torch.allclose(after, before)
            before = after


def test_a_base_that_drafts_with_its_first_layers() -> None:
    base = tiny("llama")
    arm, prompt = adapted(base, 1), prompts(1, 8)
    expected = reference_greedy(base, [arm.get_base_model()], 0.9, prompt, 10, EOS)
    output = base.generate(**prompt, reward_models=[arm], alpha=0.9, assistant_early_exit=1, **GREEDY)
    assert torch.equal(output, expected) and base.config.num_hidden_layers == 2


@pytest.mark.parametrize("shared", [True, False])
def test_a_copied_cache_starts_several_continuations(shared: bool) -> None:
    import copy

    base = tiny("llama")
    arm: Any = adapted(base, 1) if shared else tiny("gpt2", seed=1)
    guided = {"reward_models": [arm], "alpha": 0.8, "do_sample": False, "eos_token_id": None, "max_new_tokens": 5}
    prefix = prompts(1, 6)["input_ids"]
    with torch.no_grad():
        cache = genarm_hf.guide(base, arm, 0.8)(prefix, use_cache=True).past_key_values
    for seed in (7, 8):
        text = torch.cat([prefix, prompts(1, 4, seed=seed)["input_ids"]], 1)
        resumed = base.generate(text, past_key_values=copy.deepcopy(cache), **guided)
        assert torch.equal(resumed, base.generate(text, **guided))


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed", "ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "bias"),
        ({"merge": True}, "merged"),
        ({"dtype": torch.bfloat16}, "another dtype"),
        ({"foreign": True}, "not the base's own tensor"),
        ({"hook": True}, "forward hooks"),
        ({"plain": True}, "no LoRA layers"),
        ({"modules_to_save": ["lm_head"]}, "base's own tensor|ModulesToSave|LoRA"),
    ],
)
def test_what_cannot_be_shared_falls_back_and_says_why(change: dict[str, Any], reason: str) -> None:
    base = tiny("llama")
    flags = {key: change.pop(key, None) for key in ("merge", "dtype", "foreign", "hook", "plain")}
    home = tiny("llama") if flags["foreign"] else base
    arm: Any = tiny("llama", seed=3) if flags["plain"] else adapted(home, 1, **change)
    if flags["merge"]:
        arm = adapted(tiny("llama"), 1)
        arm.merge_adapter()
    if flags["dtype"]:
        for name, parameter in arm.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(flags["dtype"])
    handle = base.register_forward_hook(lambda *_: None) if flags["hook"] else None
    prompt, inner = prompts(2, 6, padded=True), arm.get_base_model() if hasattr(arm, "peft_config") else arm
    expected = reference_greedy(base, [inner], 0.7, prompt, 10, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=0.7, **GREEDY), expected)
    with pytest.raises(ValueError, match=f"`share_backbone=True`, but reward_models.0. cannot go through.*({reason})"):
        base.generate(**prompt, reward_models=[arm], alpha=0.7, share_backbone=True, **GREEDY)
    if handle is not None:
        handle.remove()


def test_a_shallower_model_on_the_same_tensors_reads_by_itself() -> None:
    """All of its tensors are the base's; not all of the base's are its own."""
    from genarm_hf.adapters import share_weights

    base, prompt = tiny("llama"), prompts(2)
    shallow = share_weights(base)
    shallow.model.layers = shallow.model.layers[:1]
    shallow.config.num_hidden_layers = 1
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    arm = peft.get_peft_model(shallow, config).eval()
    assert "it lacks the base's model.layers.1." in str(why_not_shared(base, arm.get_base_model()))
    separate = base.generate(**prompt, reward_models=[arm], alpha=0.7, share_backbone=False, **GREEDY)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=0.7, **GREEDY), separate)
