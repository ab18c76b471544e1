"""A guided model as an object: what it leaves alone, what it looks like, which bases it works on."""

import copy
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel

import genarm_hf
from genarm_hf.decoding.guided_model import GuidedModel

from ..conftest import EOS, VOCAB, prompts, tiny
from .reference import reference_greedy

GREEDY = {"max_new_tokens": 8, "do_sample": False}


def count_forwards(model: Any) -> list[int]:
    """Tokens of each forward of a model from now on."""
    fed: list[int] = []
    model.register_forward_hook(lambda _, args, kwargs, output: fed.append(output.logits.shape[1]), with_kwargs=True)
    return fed


# ---------------------------------------------------------------------------------------------- alpha 0


@pytest.mark.parametrize("alpha", [0, 0.0, [0.0, 0.0], torch.zeros(2, 2)])
def test_alpha_zero_is_the_base_and_runs_no_reward_model(alpha: Any) -> None:
    base, arms = tiny("llama").to(torch.bfloat16), [tiny("llama", seed=1), tiny("gpt2", seed=2)]
    fed = [count_forwards(arm) for arm in arms]
    prompt = prompts(2, padded=True)
    settings = {"return_dict_in_generate": True, "output_logits": True, **GREEDY}
    expected = base.generate(**prompt, **settings)
    output = base.generate(**prompt, reward_models=arms, alpha=alpha, **settings)
    assert torch.equal(output.sequences, expected.sequences)
    assert all(torch.equal(a, b) for a, b in zip(output.logits, expected.logits, strict=True))
    assert fed == [[], []]


def test_a_reward_model_that_is_off_is_not_run_beside_one_that_is_on() -> None:
    base, arms = tiny("llama"), [tiny("llama", seed=1), tiny("gpt2", seed=2)]
    fed = [count_forwards(arm) for arm in arms]
    base.generate(**prompts(1), reward_models=arms, alpha=[0.0, 0.5], eos_token_id=None, **GREEDY)
    assert fed[0] == [] and len(fed[1]) == 8


def test_rows_at_alpha_zero_are_bit_identical_to_the_base() -> None:
    base, arm = tiny("llama"), tiny("llama", seed=1)
    inputs = prompts(3)
    logits = genarm_hf.guide(base, arm, torch.tensor([[0.0], [1.0], [-0.5]]))(**inputs).logits
    assert torch.equal(logits[0], base(**inputs).logits[0])
    assert not torch.equal(logits[1], base(**inputs).logits[1])


def test_each_token_is_fed_once_to_each_model() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    fed: list[int] = []
    for model in (base, arm):
        model.register_forward_pre_hook(
            lambda _, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
    base.generate(**prompts(1, 6), reward_models=[arm], alpha=1.0, eos_token_id=None, **GREEDY)
    assert fed == [6, 6, *([1, 1] * 7)]


def test_a_scheduled_reward_model_sleeps_and_catches_up() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    fed: list[int] = []
    arm.register_forward_pre_hook(lambda _, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    base.generate(
        **prompts(1, 6), reward_models=[arm], alpha=lambda step: float(step in (4, 5)), eos_token_id=None, **GREEDY
    )
    assert fed == [6 + 4, 1]


# ---------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma", "t5"])
def test_forward_is_the_formula(kind: str) -> None:
    base, arm = tiny(kind), tiny("qwen2", seed=1)
    inputs = prompts(2, 9, padded=kind != "t5")
    if kind == "t5":
        inputs["decoder_input_ids"] = prompts(2, 5, seed=3)["input_ids"]
        read = {"input_ids": inputs["decoder_input_ids"]}
    else:
        mask = inputs["attention_mask"]
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        read = inputs
    guided = genarm_hf.guide(base, arm, 0.7)
    with torch.no_grad():
        expected = base(**inputs).logits.float() + 0.7 * arm(**read).logits.float().log_softmax(-1)
        torch.testing.assert_close(guided(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
        logprobs = guided(**inputs, return_logprobs=True).logits
    torch.testing.assert_close(logprobs, expected.log_softmax(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(logprobs.shape[:2]))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_token_logprobs_do_not_depend_on_padding(kind: str) -> None:
    guided = genarm_hf.guide(tiny(kind), tiny("gpt2", seed=1), 0.7)
    ids = prompts(1, 7, seed=3)["input_ids"]
    padded, mask = torch.nn.functional.pad(ids, (3, 0)), torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
    expected = guided.token_logprobs(ids)[:, 1:]
    torch.testing.assert_close(guided.token_logprobs(padded, mask)[:, 4:], expected, atol=1e-4, rtol=1e-4)


def test_forward_by_position_as_tuple_and_step_by_step() -> None:
    base, arms = tiny("llama"), [tiny("gpt2", seed=1), tiny("mistral", seed=2)]
    guided = genarm_hf.guide(base, arms, [0.7, 0.2])
    ids = prompts(2, 9)["input_ids"]
    with torch.no_grad():
        whole = guided(ids).logits
        assert torch.equal(guided(ids, return_dict=False)[0], whole)
        cache, steps = None, []
        for piece in ids.split([4, 1, 3, 1], dim=1):
            output = guided(input_ids=piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)


def test_the_cache_moves_all_caches_together() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    guided, ids = genarm_hf.guide(base, arm, 0.9), prompts(3, 9)["input_ids"]

    def after(change: Any, rows: torch.Tensor, kept: int) -> None:
        with torch.no_grad():
            cache = guided(ids, use_cache=True).past_key_values
            change(cache)
            text = torch.cat([rows[:, :kept], torch.full((len(rows), 1), 7)], 1)
            stepped = guided(input_ids=text[:, -1:], past_key_values=cache, use_cache=True).logits
            torch.testing.assert_close(stepped, guided(text).logits[:, -1:], atol=1e-4, rtol=1e-4)

    after(lambda cache: None, ids, 9)
    after(lambda cache: cache.crop(-3), ids, 6)
    after(lambda cache: cache.reorder_cache(torch.tensor([2, 2, 0])), ids[[2, 2, 0]], 9)
    after(lambda cache: cache.batch_repeat_interleave(2), ids.repeat_interleave(2, 0), 9)
    after(lambda cache: cache.batch_select_indices(torch.tensor([1])), ids[[1]], 9)


def test_a_static_cache_resets() -> None:
    from transformers import StaticCache

    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    prompt = prompts(2, 6)
    cache = StaticCache(config=base.config, max_cache_len=32)
    first = base.generate(
        **prompt, reward_models=[arm], alpha=0.9, past_key_values=cache, return_dict_in_generate=True, **GREEDY
    )
    first.past_key_values.reset()
    again = base.generate(**prompt, reward_models=[arm], alpha=0.9, past_key_values=first.past_key_values, **GREEDY)
    assert torch.equal(again, first.sequences)


def test_labels_are_refused() -> None:
    ids = prompts(1)["input_ids"]
    with pytest.raises(ValueError, match="labels"):
        genarm_hf.guide(tiny("llama"), tiny("llama", seed=1))(ids, labels=ids)


def test_impossible_tokens_make_no_nan() -> None:
    """A token the base masks stays masked; one a reward model cannot produce is masked unless its alpha is 0."""
    from genarm_hf.guidance import combine

    base = torch.tensor([[[0.0, -math.inf, 1.0]]])
    reward = torch.tensor([[[-math.inf, 0.0, -1.0]]])
    for alpha in (1.0, -1.0, torch.tensor([[[1.0]]]), torch.tensor([[[-1.0]]])):
        assert combine(base, [reward], [alpha]).isneginf().tolist() == [[[True, True, False]]]
    assert torch.equal(combine(base, [reward], [torch.zeros(1, 1, 1)]), base)
    assert torch.equal(combine(base, [None], [0.0]), base)


# ---------------------------------------------------------------------------------------------- what it looks like


def test_it_is_of_the_base_class_and_changes_nothing() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    before = {name: id(value) for name, value in base.__dict__.items()}
    modules, config = list(base._modules), copy.deepcopy(base.config.to_dict())
    guided = genarm_hf.guide(base, arm)
    assert isinstance(guided, type(base)) and isinstance(guided, GuidedModel) and isinstance(guided, PreTrainedModel)
    assert type(guided).__name__ == "LlamaForCausalLM" and guided.can_generate()
    guided.generate(**prompts(2), num_beams=2, **GREEDY)
    base.generate(**prompts(2), reward_models=[arm], cache_implementation="static", **GREEDY)
    assert {name: id(value) for name, value in base.__dict__.items()} == before
    assert list(base._modules) == modules and base.config.to_dict() == config
    assert guided.get_input_embeddings() is base.get_input_embeddings()


def test_guided_object_generates_and_takes_another_alpha() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    guided, prompt = genarm_hf.guide(base, arm, 0.9), prompts(2)
    assert torch.equal(
        guided.generate(**prompt, **GREEDY), base.generate(**prompt, reward_model=arm, alpha=0.9, **GREEDY)
    )
    assert torch.equal(guided.generate(**prompt, alpha=0.0, **GREEDY), base.generate(**prompt, **GREEDY))


def test_default_alpha_is_the_reward_models_own() -> None:
    base, inner = tiny("llama"), tiny("gpt2", seed=1)
    arm = genarm_hf.AutoregressiveRewardModel.from_backbone(inner, alpha=0.3)
    prompt = prompts(2)
    assert torch.equal(
        base.generate(**prompt, reward_models=[arm, inner], **GREEDY),
        base.generate(**prompt, reward_models=[inner, inner], alpha=[0.3, 1.0], **GREEDY),
    )


@pytest.mark.parametrize("mode", [{}, {"do_sample": True}, {"num_beams": 3}, {"num_beams": 3, "do_sample": True}])
def test_outputs_keep_the_contract_of_generate(mode: dict[str, Any]) -> None:
    """As transformers' GenerationTesterMixin asks: types, lengths and shapes are those of the unguided call."""
    base, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(2)
    settings = {
        "max_new_tokens": 5, "min_new_tokens": 5, "return_dict_in_generate": True, "output_scores": True,
        "output_logits": True, "output_attentions": True, "output_hidden_states": True, "num_return_sequences": 1 if
        mode == {} else 2,
    } | mode  # fmt: skip
    base.set_attn_implementation("eager")
    plain, guided = base.generate(**prompt, **settings), base.generate(**prompt, reward_models=[arm], **settings)
    assert type(plain) is type(guided) and list(plain.keys()) == list(guided.keys())
    assert plain.sequences.shape == guided.sequences.shape
    for key in ("scores", "logits", "attentions", "hidden_states"):
        assert len(plain[key]) == len(guided[key]) == 5
    assert all(
        a.shape == b.shape and b.dtype == torch.float32 for a, b in zip(plain.logits, guided.logits, strict=True)
    )
    assert all(
        a.shape == b.shape
        for x, y in zip(plain.attentions, guided.attentions, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    transition = base.compute_transition_scores(
        guided.sequences, guided.scores, getattr(guided, "beam_indices", None), normalize_logits="num_beams" not in mode
    )
    assert transition.shape[0] == guided.sequences.shape[0]
    assert bool((transition <= 0).all())


def test_beam_scores_are_log_probabilities_of_the_policy() -> None:
    base, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(1)
    output = base.generate(
        **prompt, reward_models=[arm], alpha=1.3, num_beams=4, max_new_tokens=6, length_penalty=0.0, do_sample=False,
        eos_token_id=None, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    logprobs = genarm_hf.guide(base, arm, 1.3).token_logprobs(output.sequences)[:, 6:].sum(-1)
    torch.testing.assert_close(output.sequences_scores, logprobs, atol=1e-3, rtol=1e-4)


# ---------------------------------------------------------------------------------------------- which bases


def test_base_under_peft() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = tiny("llama")
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    arm, prompt = tiny("gpt2", seed=1), prompts(2, padded=True)
    expected = reference_greedy(model.get_base_model(), [arm], 0.9, prompt, 8, EOS)
    assert torch.equal(model.generate(**prompt, reward_models=[arm], alpha=0.9, **GREEDY), expected)
    assert torch.equal(genarm_hf.guide(model, arm, 0.9).generate(**prompt, **GREEDY), expected)


@pytest.mark.filterwarnings("ignore:You are calling .generate")  # older transformers, about offloaded models
def test_base_under_accelerate_hooks() -> None:
    from accelerate import cpu_offload, dispatch_model

    arm, prompt = tiny("gpt2", seed=1), prompts(2, padded=True)
    expected = reference_greedy(tiny("llama"), [arm], 0.9, prompt, 8, EOS)
    dispatched = dispatch_model(tiny("llama"), {"": "cpu"}, force_hooks=True)
    assert torch.equal(dispatched.generate(**prompt, reward_models=[arm], alpha=0.9, **GREEDY), expected)
    offloaded = cpu_offload(tiny("llama"), execution_device=torch.device("cpu"))
    assert torch.equal(offloaded.generate(**prompt, reward_models=[arm], alpha=0.9, **GREEDY), expected)


def test_hooks_of_the_base_run_once_a_forward() -> None:
    base, arm = tiny("llama"), tiny("gpt2", seed=1)
    calls: list[int] = []
    base.register_forward_hook(lambda *_: calls.append(1))
    base.generate(**prompts(1), reward_models=[arm], eos_token_id=None, **GREEDY)
    assert len(calls) == 8


def test_quantised_base() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    base, arm, prompt = tiny("llama", hidden_size=64), tiny("gpt2", seed=1), prompts(2, padded=True)
    quantization.quantize_(base, quantization.Int8WeightOnlyConfig())
    expected = reference_greedy(base, [arm], 0.9, prompt, 8, EOS)
    assert torch.equal(base.generate(**prompt, reward_models=[arm], alpha=0.9, **GREEDY), expected)


def test_bitsandbytes_base() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers.integrations import replace_with_bnb_linear

    assert bitsandbytes and replace_with_bnb_linear
    from transformers import BitsAndBytesConfig

    base, arm, prompt = tiny("llama", hidden_size=64), tiny("gpt2", seed=1), prompts(2, padded=True)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(folder)
        quantised = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
        ).eval()
        expected = reference_greedy(quantised, [arm], 0.9, prompt, 8, EOS)
        assert torch.equal(quantised.generate(**prompt, reward_models=[arm], alpha=0.9, **GREEDY), expected)


def test_multimodal_base_whose_reward_model_reads_the_text() -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=VOCAB + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        initializer_range=0.4, pad_token_id=0, bos_token_id=1, eos_token_id=EOS,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=VOCAB, vision_feature_layer=-1, image_seq_length=4
    )
    base, arm = LlavaForConditionalGeneration(config).eval(), tiny("gpt2", seed=1)
    ids = torch.tensor([[5, VOCAB, VOCAB, VOCAB, VOCAB, 6, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 8, 8)}
    output = base.generate(**inputs, reward_models=[arm], alpha=0.9, eos_token_id=None, **GREEDY)
    current = ids
    for _ in range(8):
        mask = (current != VOCAB).long()
        with torch.no_grad():
            logits = (
                base(input_ids=current, pixel_values=inputs["pixel_values"], attention_mask=torch.ones_like(current))
                .logits[0, -1]
                .float()
            )
            reward = arm(
                current.masked_fill(mask == 0, 0), attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
            )
        logits[:VOCAB] += 0.9 * reward.logits[0, -1].float().log_softmax(-1)
        current = torch.cat([current, logits[:VOCAB].argmax()[None, None]], 1)
    assert torch.equal(output, current)


@pytest.mark.parametrize("role", ["base", "reward model"])
@pytest.mark.parametrize("kind", ["mamba", "falcon_h1"])
def test_recurrent_and_hybrid_models(kind: str, role: str) -> None:
    import transformers as hf

    torch.manual_seed(0)
    if kind == "mamba":
        config: Any = hf.MambaConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0, eos_token_id=EOS
        )
    else:
        config = hf.FalconH1Config(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_state=8, mamba_n_groups=1,
            mamba_chunk_size=8, initializer_range=0.4, pad_token_id=0, bos_token_id=1, eos_token_id=EOS,
        )  # fmt: skip
    recurrent = AutoModelForCausalLM.from_config(config).eval()
    other = tiny("llama", seed=1)
    base, arm = (recurrent, other) if role == "base" else (other, recurrent)
    prompt = prompts(2, 7)
    ids = prompt["input_ids"]
    for _ in range(8):
        with torch.no_grad():
            logits = base(ids, use_cache=False).logits[:, -1].float() + 0.9 * arm(ids, use_cache=False).logits[
                :, -1
            ].float().log_softmax(-1)
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    output = base.generate(**prompt, reward_models=[arm], alpha=0.9, eos_token_id=None, **GREEDY)
    assert torch.equal(output, ids)


# ---------------------------------------------------------------------------------------------- generation configs,
# install


def test_a_generation_config_carries_guidance(tmp_path: Any) -> None:
    base, inner, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(2)
    genarm_hf.AutoregressiveRewardModel.from_backbone(inner).save_pretrained(tmp_path / "arm")
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=EOS)
    config.reward_models, config.alpha = [str(tmp_path / "arm")], 0.6
    config.save_pretrained(tmp_path)
    loaded = GenerationConfig.from_pretrained(tmp_path)
    expected = base.generate(**prompt, reward_models=[inner], alpha=0.6, **GREEDY)
    assert torch.equal(base.generate(**prompt, generation_config=loaded), expected)
    unguided = base.generate(**prompt, **GREEDY)
    base.generation_config = loaded
    assert torch.equal(base.generate(**prompt), expected)
    assert torch.equal(base.generate(**prompt, reward_models=[]), unguided)
    stronger = base.generate(**prompt, alpha=2.0)
    base.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=EOS)
    assert torch.equal(stronger, base.generate(**prompt, reward_models=[inner], alpha=2.0, **GREEDY))


def test_the_mixin_works_without_install() -> None:
    from transformers import LlamaForCausalLM

    class Guidable(genarm_hf.GenARMGenerationMixin, LlamaForCausalLM):
        pass

    plain, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(2)
    expected = plain.generate(**prompt, reward_models=[arm], alpha=0.6, **GREEDY)
    model = Guidable(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    genarm_hf.uninstall()
    try:
        with pytest.raises(ValueError, match="reward_models"):
            plain.generate(**prompt, reward_models=[arm], **GREEDY)
        assert torch.equal(model.generate(**prompt, reward_models=[arm], alpha=0.6, **GREEDY), expected)
    finally:
        genarm_hf.install()
    assert GenerationMixin.generate.__doc__


def test_a_directory_written_again_is_loaded_again(tmp_path: Any) -> None:
    base, prompt = tiny("llama"), prompts(2)
    for seed in (1, 2):
        inner = tiny("gpt2", seed=seed)
        genarm_hf.AutoregressiveRewardModel.from_backbone(inner).save_pretrained(tmp_path / "arm")
        expected = base.generate(**prompt, reward_models=[inner], alpha=0.9, **GREEDY)
        assert torch.equal(
            base.generate(**prompt, reward_models=[str(tmp_path / "arm")], alpha=0.9, **GREEDY), expected
        )


@pytest.mark.parametrize("own_prompt", [False, True])
def test_reward_models_keep_static_caches_where_the_base_does(own_prompt: bool) -> None:
    """As long as their own text may get; the next call takes the longest so far, so that nothing is compiled again."""
    from transformers import StaticCache

    base, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(2, 6, padded=True)
    guided = {"reward_models": [arm], "alpha": 0.9, "do_sample": False, "eos_token_id": None}
    guided |= {"reward_inputs": prompts(2, 9, seed=4)} if own_prompt else {}
    static = {"cache_implementation": "static", "return_dict_in_generate": True}
    lengths = []
    for new_tokens in (10, 4):
        output = base.generate(**prompt, **guided, **static, max_new_tokens=new_tokens)
        assert torch.equal(output.sequences, base.generate(**prompt, **guided, max_new_tokens=new_tokens))
        cache = output.past_key_values.readers[0].cache
        assert isinstance(cache, StaticCache)
        lengths.append(cache.layers[0].max_cache_len)
    assert lengths == ([18, 18] if own_prompt else [15, 15])


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_static_cache_of_the_users_has_room_for_the_next_turn(kind: str) -> None:
    from transformers import StaticCache

    base, arm, prompt = tiny(kind), tiny("gpt2", seed=1), prompts(2, 6)
    guided = {"reward_models": [arm], "alpha": 0.8, "do_sample": False, "eos_token_id": None}
    cache = StaticCache(config=base.config, max_cache_len=40)
    settings = {"max_new_tokens": 4, "return_dict_in_generate": True, "past_key_values": cache}
    first = base.generate(**prompt, **guided, **settings)
    more = torch.cat([first.sequences, prompts(2, 3, seed=9)["input_ids"]], 1)
    resumed = base.generate(more, **guided, max_new_tokens=8, past_key_values=first.past_key_values)
    assert torch.equal(resumed, base.generate(more, **guided, max_new_tokens=8))


def test_a_guided_object_refuses_paged_caches() -> None:
    with pytest.raises(ValueError, match="generate_batch"):
        genarm_hf.guide(tiny("llama"), tiny("gpt2")).generate(**prompts(1), cache_implementation="paged", **GREEDY)
