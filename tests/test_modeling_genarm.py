"""The reward-model class: rewards by hand arithmetic, the causal LM interface, and round trips that are exact."""

import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from genarm_hf import AutoregressiveRewardModel, GenARMConfig
from tests.conftest import EOS, PAD, VOCAB, prompts, tiny
from tests.reward_models import PEFT_WARNINGS, assert_same_state, lora, state_of, word_tokenizer

pytestmark = PEFT_WARNINGS


@pytest.fixture
def arm():
    return AutoregressiveRewardModel.from_backbone(tiny("llama"), beta=0.1, alpha=0.7, objective="helpful")


# ---------------------------------------------------------------------- rewards


def test_token_rewards_are_log_probabilities(arm):
    ids = prompts(3, 7)["input_ids"]
    probabilities = arm(ids).logits.detach().double().softmax(-1)
    expected = [[0.0] + [math.log(probabilities[row, t - 1, ids[row, t]]) for t in range(1, 7)] for row in range(3)]
    torch.testing.assert_close(arm.token_rewards(ids).double(), torch.tensor(expected).double(), atol=1e-5, rtol=1e-5)
    assert arm.token_rewards(ids).dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma"])
def test_padding_changes_nothing(kind):
    arm = AutoregressiveRewardModel.from_backbone(tiny(kind))
    ids = prompts(1, 9)["input_ids"]
    alone = arm.token_rewards(ids)[0]
    padding = torch.full((1, 4), PAD)
    left, right = torch.cat([padding, ids], 1), torch.cat([ids, padding], 1)
    from_left = arm.token_rewards(left, (left != PAD).long())[0]
    from_right = arm.token_rewards(right, (right != PAD).long())[0]
    torch.testing.assert_close(from_left[4:], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(from_right[:-4], alone, atol=1e-5, rtol=1e-5)
    assert not from_left[:5].any() and not from_right[-4:].any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_response_mask_selects(arm, side):
    ids = prompts(3, 8)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, : 3 if side == "left" else None] = 0 if side == "left" else 1
    if side == "right":
        mask[0, -3:] = 0
    response = torch.zeros_like(ids)
    response[:, 4:] = 1
    everything = arm.token_rewards(ids, mask)
    torch.testing.assert_close(arm.token_rewards(ids, mask, response), everything * response, atol=1e-5, rtol=1e-5)
    assert not arm.token_rewards(ids, mask, torch.zeros_like(ids)).any()


def test_masks_of_another_shape_are_refused(arm):
    with pytest.raises(ValueError, match=r"`response_mask` must have the shape of `input_ids`, \(2, 6\); got \(2, 5\)"):
        arm.token_rewards(prompts()["input_ids"], response_mask=torch.ones(2, 5))


def test_token_rewards_carry_gradients(arm):
    arm.token_rewards(prompts()["input_ids"]).sum().backward()
    assert arm.causal_lm.model.embed_tokens.weight.grad.any()


def test_score_by_hand_arithmetic(arm):
    score = arm.score(word_tokenizer(), "w5 w6", "w7 w8")
    ids = torch.tensor([[1, 5, 6, 7, 8, EOS]])
    logprobs = arm(ids).logits.detach().log_softmax(-1)
    expected = logprobs[0, 2, 7] + logprobs[0, 3, 8] + logprobs[0, 4, EOS]
    torch.testing.assert_close(score, expected[None], atol=1e-5, rtol=1e-5)
    without_end = arm.score(word_tokenizer(), "w5 w6", "w7 w8", append_eos=False)
    torch.testing.assert_close(without_end, (expected - logprobs[0, 4, EOS])[None], atol=1e-5, rtol=1e-5)


def test_score_does_not_depend_on_the_batch(arm):
    tokenizer = word_tokenizer()
    asked = ["w5", "w6 w7 w8 w9 w10 w11", "w12 w13", "w14 w15 w16", "w5 w5"]
    answers = ["w20 w21 w22 w23", "w24", "w25 w26", "w27 w28 w29 w30 w31 w32 w33", "w34 w35"]
    single = torch.cat([arm.score(tokenizer, p, r) for p, r in zip(asked, answers, strict=True)])
    for batch_size in (1, 2, 16):
        torch.testing.assert_close(arm.score(tokenizer, asked, answers, batch_size), single, atol=1e-5, rtol=1e-5)
    turned = arm.score(tokenizer, asked[::-1], answers[::-1]).flip(0)
    torch.testing.assert_close(turned, single, atol=1e-5, rtol=1e-5)
    assert arm.score(tokenizer, [], []).shape == (0,)


def test_score_applies_the_prompt_template():
    backbone = tiny("llama")
    plain = AutoregressiveRewardModel.from_backbone(backbone)
    templated = AutoregressiveRewardModel.from_backbone(backbone, prompt_template="w9 {prompt} w10")
    tokenizer = word_tokenizer()
    assert torch.equal(templated.score(tokenizer, "w5", "w6"), plain.score(tokenizer, "w9 w5 w10", "w6"))


def test_explain_adds_up_to_the_score(arm):
    base, tokenizer = tiny("gpt2", seed=5), word_tokenizer()
    rows = arm.explain(tokenizer, "w5 w6", "w7 w8 w9", base=base)
    assert [row["token"] for row in rows] == ["w7", "w8", "w9", "</s>"]
    assert [row["id"] for row in rows] == [7, 8, 9, EOS]
    assert sum(row["reward"] for row in rows) == pytest.approx(
        float(arm.score(tokenizer, "w5 w6", "w7 w8 w9")), abs=1e-4
    )
    base_rows = AutoregressiveRewardModel.from_backbone(base).explain(tokenizer, "w5 w6", "w7 w8 w9")
    for row, base_row in zip(rows, base_rows, strict=True):
        assert row["advantage"] == pytest.approx(row["reward"] - base_row["reward"], abs=1e-5)
    assert "advantage" not in arm.explain(tokenizer, "w5", "w6")[0]


def test_explain_takes_any_wrapped_base(arm):
    adapted, tokenizer = lora(tiny("llama", seed=6)), word_tokenizer()
    wrapped = AutoregressiveRewardModel.from_backbone(adapted)
    rows = [arm.explain(tokenizer, "w5", "w6", base=base) for base in (adapted, wrapped, adapted.get_base_model())]
    assert rows[0] == rows[1] == rows[2]


def test_scoring_leaves_no_dropout_and_no_mode_behind():
    arm = AutoregressiveRewardModel.from_backbone(tiny("gpt2")).train()
    tokenizer = word_tokenizer()
    first, second = arm.score(tokenizer, "w5", "w6"), arm.score(tokenizer, "w5", "w6")
    assert torch.equal(first, second)
    assert arm.training and all(module.training for module in arm.modules())


def test_texts_that_do_not_fit_are_refused(arm):
    with pytest.raises(ValueError, match=r"`prompts\[1\]` and its response have 303 tokens, .* at most 256"):
        arm.score(word_tokenizer(), ["w5", "w5 " * 300], ["w6", "w6"])
    stranger = word_tokenizer(words={"<pad>": PAD, "<s>": 1, "</s>": EOS, "<unk>": 3, "w": VOCAB + 5})
    with pytest.raises(ValueError, match=f"`tokenizer` gives id {VOCAB + 5}, which the reward model does not have"):
        arm.score(stranger, "w", "w")
    with pytest.raises(ValueError, match=r"`prompts\[0\]` has no tokens, so nothing predicts the response's first one"):
        arm.score(word_tokenizer(bos=False), "", "w5")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        arm.score(word_tokenizer(), "w5", "w6", batch_size=0)


# ---------------------------------------------------------------------- the causal LM interface


def test_forward_and_generate_are_the_backbones(arm):
    inputs = prompts(padded=True)
    assert torch.equal(arm(**inputs).logits, arm.backbone(**inputs).logits)
    expected = arm.backbone.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(arm.generate(**inputs, max_new_tokens=5, do_sample=False), expected)


def test_the_generation_config_is_the_backbones(arm):
    assert arm.generation_config is arm.causal_lm.generation_config
    arm.generation_config = GenerationConfig(max_new_tokens=3, do_sample=False)
    assert arm.generate(**prompts()).shape == (2, 9)


def test_an_adapted_reward_model_generates():
    arm = AutoregressiveRewardModel.from_backbone(lora(tiny("llama")))
    inputs = prompts(padded=True)
    expected = arm.causal_lm.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(arm.generate(**inputs, max_new_tokens=5, do_sample=False), expected)


def test_half_and_to(arm):
    ids = prompts()["input_ids"]
    assert arm.half().causal_lm.dtype == torch.float16
    assert arm.to(torch.bfloat16).dtype == torch.bfloat16
    assert arm.token_rewards(ids).dtype == torch.float32


def test_gradient_checkpointing(arm):
    ids = prompts()["input_ids"]
    arm.train()
    arm.token_rewards(ids).sum().backward()
    plain = {name: parameter.grad.clone() for name, parameter in arm.named_parameters()}
    arm.zero_grad()
    if hasattr(arm, "activation_checkpointing_enable"):  # its name since transformers 5.23
        arm.activation_checkpointing_enable()
    else:
        arm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert any(getattr(module, "gradient_checkpointing", False) for module in arm.modules())
    arm.token_rewards(ids).sum().backward()
    for name, parameter in arm.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_resizing_the_vocabulary_reaches_the_config(arm, tmp_path):
    arm.resize_token_embeddings(VOCAB + 8)
    assert arm.config.get_text_config().vocab_size == VOCAB + 8
    arm.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).get_output_embeddings().weight.shape[0] == VOCAB + 8


def test_wrapping_leaves_the_backbone_as_it_was():
    backbone = AutoModelForCausalLM.from_config(tiny("llama").config, attn_implementation="eager")
    before = backbone.config.to_dict()
    AutoregressiveRewardModel.from_backbone(backbone)
    assert backbone.config.to_dict() == before
    assert backbone.config._attn_implementation == "eager"


def test_a_backbone_is_built_from_the_config_alone():
    arm = AutoregressiveRewardModel(GenARMConfig(text_config=tiny("llama").config))
    assert arm.config.text_config is arm.causal_lm.config
    with pytest.raises(ValueError, match=r"`config.text_config` is None"):
        AutoregressiveRewardModel(GenARMConfig())


def test_backbones_that_are_no_causal_lm_are_refused():
    from transformers import LlamaForSequenceClassification, LlamaModel

    config = tiny("llama").config
    for backbone, kind in [
        (LlamaForSequenceClassification(config), "LlamaForSequenceClassification"),
        (LlamaModel(config), "LlamaModel"),
        (tiny("t5"), "T5ForConditionalGeneration"),
        (torch.nn.Linear(2, 2), "Linear"),
    ]:
        with pytest.raises(TypeError, match=f"`backbone` is a {kind}, not a .*causal LM"):
            AutoregressiveRewardModel.from_backbone(backbone)
    with pytest.raises(TypeError, match="reward model already"):
        AutoregressiveRewardModel.from_backbone(AutoregressiveRewardModel.from_backbone(tiny("llama")))
    with pytest.raises(TypeError, match="without its PEFT wrapper"):
        AutoregressiveRewardModel.from_backbone(lora(tiny("llama")).get_base_model())


# ---------------------------------------------------------------------- round trips: full weights


@pytest.mark.parametrize("auto", [AutoregressiveRewardModel, AutoModel, AutoModelForCausalLM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_full_weights_come_back_bit_for_bit(arm, auto, dtype, tmp_path):
    arm.to(dtype).save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert isinstance(loaded, AutoregressiveRewardModel) and not loaded.training
    assert loaded.dtype == loaded.config.dtype == dtype
    assert_same_state(loaded, state_of(arm))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gemma", "gpt2"])
def test_every_architecture_comes_back(kind, tmp_path):
    arm = AutoregressiveRewardModel.from_backbone(tiny(kind, seed=3))
    arm.save_pretrained(tmp_path)
    ids = prompts()["input_ids"]
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(ids).logits, arm(ids).logits)


def test_mixed_dtypes_come_back(arm, tmp_path):
    arm.to(torch.bfloat16)
    arm.causal_lm.lm_head.float()
    arm.causal_lm.lm_head.weight.data.add_(1e-6)  # lost in bfloat16
    arm.causal_lm.model.norm.half()
    arm.save_pretrained(tmp_path)
    assert_same_state(AutoModel.from_pretrained(tmp_path), state_of(arm))
    assert {p.dtype for p in AutoModel.from_pretrained(tmp_path, dtype=torch.float32).parameters()} == {torch.float32}


@pytest.mark.parametrize("auto", [AutoregressiveRewardModel, AutoModel])
@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
def test_another_dtype_may_be_asked_for(arm, auto, argument, tmp_path):
    arm.save_pretrained(tmp_path / "full")
    base = tiny("llama", seed=2)
    base.save_pretrained(tmp_path / "base")
    base.config._name_or_path = str(tmp_path / "base")
    AutoregressiveRewardModel.from_backbone(lora(base)).save_pretrained(tmp_path / "lora")
    for name in ("full", "lora"):
        assert auto.from_pretrained(tmp_path / name, **{argument: torch.bfloat16}).causal_lm.dtype == torch.bfloat16
        assert auto.from_pretrained(tmp_path / name, **{argument: "auto"}).causal_lm.dtype == torch.float32


@pytest.mark.parametrize("auto", [AutoregressiveRewardModel, AutoModel])
def test_loading_arguments_reach_the_backbone(arm, auto, tmp_path):
    arm.save_pretrained(tmp_path)
    assert auto.from_pretrained(tmp_path, attn_implementation="eager").causal_lm.config._attn_implementation == "eager"
    for device_map in ("cpu", "auto", {"": "cpu"}):
        loaded = auto.from_pretrained(tmp_path, device_map=device_map)
        assert_same_state(loaded, state_of(arm))


@pytest.mark.parametrize("auto", [AutoregressiveRewardModel, AutoModel])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_quantization_config_passes_through(arm, auto, kind, tmp_path, monkeypatch):
    base = tiny("llama", seed=2)
    base.save_pretrained(tmp_path / "base")
    arm.save_pretrained(tmp_path / "full")
    base.config._name_or_path = str(tmp_path / "base")
    AutoregressiveRewardModel.from_backbone(lora(base)).save_pretrained(tmp_path / "lora")
    stock, seen = AutoModelForCausalLM.from_pretrained, []

    def spy(*args, quantization_config=None, **kwargs):
        seen.append(quantization_config)
        return stock(*args, **kwargs)

    from transformers import BitsAndBytesConfig

    wanted = BitsAndBytesConfig(load_in_8bit=True)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    auto.from_pretrained(tmp_path / kind, quantization_config=wanted)
    assert len(seen) == 1 and seen[0].load_in_8bit


def test_tied_embeddings_stay_tied(tmp_path):
    arm = AutoregressiveRewardModel.from_backbone(tiny("llama", tie_word_embeddings=True))
    arm.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert_same_state(loaded, state_of(arm))
    loaded.tie_weights()


def test_config_fields_come_back(tmp_path):
    backbone = tiny("llama", rope_theta=5000.0)
    backbone.config._name_or_path = "org/base"
    arm = AutoregressiveRewardModel.from_backbone(
        backbone, beta=0.05, alpha=1.5, objective="harmless", prompt_template="Q: {prompt}\nA:"
    )
    arm.save_pretrained(tmp_path / "first")
    config = AutoConfig.from_pretrained(tmp_path / "first")
    assert isinstance(config, GenARMConfig) and config.architectures == ["AutoregressiveRewardModel"]
    assert (config.beta, config.alpha, config.objective) == (0.05, 1.5, "harmless")
    assert config.prompt_template == "Q: {prompt}\nA:" and config.adapter is None
    assert config.get_text_config().vocab_size == VOCAB
    # again and again: nothing drifts, and where it was first trained from is not forgotten
    AutoModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = ((tmp_path / name / "config.json").read_text() for name in ("first", "second"))
    assert first == second and json.loads(first)["text_config"]["_name_or_path"] == "org/base"


def test_reward_fields_can_be_replaced_on_loading(arm, tmp_path):
    arm.save_pretrained(tmp_path / "arm")
    tiny("llama").save_pretrained(tmp_path / "plain")
    for auto in (AutoregressiveRewardModel, AutoModel):
        loaded = auto.from_pretrained(tmp_path / "arm", alpha=2.0)
        assert (loaded.config.alpha, loaded.config.beta) == (2.0, 0.1)
    assert (
        AutoregressiveRewardModel.from_pretrained(tmp_path / "plain", objective="polite").config.objective == "polite"
    )
    with pytest.raises(ValueError, match="`alpha` must be a finite number, got nan"):
        AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", alpha=math.nan)


def test_generation_config_comes_back(arm, tmp_path):
    arm.generation_config.update(max_new_tokens=7, do_sample=True, temperature=0.5)
    arm.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).generation_config.temperature == 0.5
    assert GenerationConfig.from_pretrained(tmp_path).max_new_tokens == 7


def test_sharded_saves_and_saving_over(arm, tmp_path):
    arm.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_state(AutoModel.from_pretrained(tmp_path), state_of(arm))
    other = AutoregressiveRewardModel.from_backbone(tiny("gpt2", seed=9))
    other.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors*")) == ["model.safetensors"]
    assert_same_state(AutoModel.from_pretrained(tmp_path), state_of(other))
    arm.save_pretrained(tmp_path, max_shard_size="8KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_state(AutoModel.from_pretrained(tmp_path), state_of(arm))


def test_a_trainers_state_dict_is_the_backbones(arm, tmp_path):
    state = {name: tensor + 1 for name, tensor in state_of(arm).items()}
    assert all(name.startswith("backbone.") for name in state)
    arm.save_pretrained(tmp_path, state_dict=state)
    assert_same_state(AutoModel.from_pretrained(tmp_path), state)


def test_other_ranks_write_nothing(arm, tmp_path):
    arm.save_pretrained(tmp_path / "full", is_main_process=False)
    AutoregressiveRewardModel.from_backbone(lora(tiny("llama"))).save_pretrained(
        tmp_path / "lora", is_main_process=False
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_tokenizer_is_saved_along(arm, tmp_path):
    arm.save_pretrained(tmp_path, tokenizer=word_tokenizer())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("w5")["input_ids"] == [1, 5]
    assert torch.equal(
        AutoModel.from_pretrained(tmp_path).score(tokenizer, "w5", "w6"), arm.score(tokenizer, "w5", "w6")
    )


def test_targets_that_cannot_be_are_refused(arm, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`save_directory` must be a directory, and .* is a file"):
        arm.save_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="`safe_serialization=False` asks for a pickle"):
        arm.save_pretrained(tmp_path / "arm", safe_serialization=False)
    assert not (tmp_path / "arm").exists()


# ---------------------------------------------------------------------- the hub, mocked


class FakeApi:
    """`huggingface_hub.HfApi` over a directory."""

    def __init__(self, hub):
        self.hub, self.calls = hub, []

    def __call__(self, token=None):
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        self.calls.append(("create_repo", repo_id, private, exist_ok))
        return type("Url", (), {"repo_id": repo_id if "/" in repo_id else f"me/{repo_id}"})

    def hf_hub_download(self, repo_id, filename, revision=None):
        if not (self.hub / filename).exists():
            raise FileNotFoundError(filename)
        return str(self.hub / filename)

    def upload_folder(self, repo_id, folder_path, **kwargs):
        import shutil

        self.calls.append(("upload_folder", repo_id, kwargs))
        shutil.copytree(folder_path, self.hub, dirs_exist_ok=True)
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/commit/1"})


@pytest.fixture
def api(tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "hub").mkdir()
    fake = FakeApi(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


def test_push_to_hub(arm, api):
    address = arm.push_to_hub("org/arm", tokenizer=word_tokenizer(), private=True, token="hf_x", revision="v1")
    assert address == "https://hub/org/arm/commit/1"
    assert api.calls == [
        ("token", "hf_x"),
        ("create_repo", "org/arm", True, True),
        ("upload_folder", "org/arm", {"revision": "v1", "commit_message": "Upload autoregressive reward model"}),
    ]
    assert "AutoModel.from_pretrained('org/arm')" in (api.hub / "README.md").read_text()
    assert_same_state(AutoModel.from_pretrained(api.hub), state_of(arm))
    assert AutoTokenizer.from_pretrained(api.hub)("w5")["input_ids"] == [1, 5]


def test_pushing_keeps_the_hub_cards_text(arm, api):
    (api.hub / "README.md").write_text("---\nlicense: mit\n---\n# Ours\n\nHand-written.\n")
    arm.push_to_hub("org/arm")
    text = (api.hub / "README.md").read_text()
    assert "Hand-written." in text and "license: mit" in text and "library_name: genarm-hf" in text


def test_saving_can_push(arm, api, tmp_path):
    arm.save_pretrained(tmp_path / "arm", push_to_hub=True, commit_message="v2")
    assert ("create_repo", "arm", None, True) in api.calls
    assert api.calls[-1] == ("upload_folder", "me/arm", {"commit_message": "v2"})
    assert (tmp_path / "arm" / "model.safetensors").exists()
    assert "from_pretrained('me/arm')" in (api.hub / "README.md").read_text()


@pytest.mark.parametrize("wrong", [-1, VOCAB])
def test_ids_that_the_model_lacks(wrong: int) -> None:
    arm = AutoregressiveRewardModel.from_backbone(tiny("llama"))
    with pytest.raises(ValueError, match=f"hold id {wrong}, and the model has {VOCAB} tokens"):
        arm.token_rewards(torch.tensor([[4, wrong]]))


@pytest.mark.parametrize("wrong", ["x", None, 0, 2.5])
def test_batch_sizes_that_are_none(wrong: Any) -> None:
    arm = AutoregressiveRewardModel.from_backbone(tiny("llama"))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        arm.score(word_tokenizer(), "w5", "w6", batch_size=wrong)


def test_bases_that_explain_nothing() -> None:
    arm = AutoregressiveRewardModel.from_backbone(tiny("llama"))
    for wrong in ("name", torch.nn.Linear(2, 2), tiny("llama").model, tiny("t5")):
        with pytest.raises(TypeError, match="`base` must be a causal LM"):
            arm.explain(word_tokenizer(), "w5", "w6", base=wrong)
    with pytest.raises(ValueError, match="hold id 40, and the model has 32 tokens"):
        arm.explain(word_tokenizer(), "w5", "w40", base=tiny("llama", vocab_size=32))
