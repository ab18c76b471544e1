"""Adapters: exact round trips, and many on one base that none of them touches."""

import json
import threading

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel
from genarm_hf.adapters import adapter_disabled, trained_base_parameters
from tests.conftest import VOCAB, prompts, tiny
from tests.reward_models import LOADS_ADAPTERS, PEFT_WARNINGS, assert_same_state, lora, state_of

pytestmark = PEFT_WARNINGS

IDS = prompts(2, 8)["input_ids"]


@pytest.fixture
def base(tmp_path):
    """A base model that was loaded from a directory, as models are."""
    return saved(tiny("llama"), tmp_path / "base")


def saved(model, directory):
    model.save_pretrained(directory)
    return AutoModelForCausalLM.from_pretrained(directory)


def save_lora(base, directory, **changes):
    """A LoRA reward model saved beside nothing; and its logits."""
    arm = AutoregressiveRewardModel.from_backbone(lora(copy_of(base), **changes), beta=0.1, objective="helpful")
    arm.save_pretrained(directory)
    return logits(arm)


def copy_of(base):
    return AutoModelForCausalLM.from_pretrained(base.config._name_or_path, dtype=base.dtype)


@torch.no_grad()
def logits(model):
    return model(IDS).logits.clone()


# ---------------------------------------------------------------------- round trips


@pytest.mark.parametrize("auto", [AutoregressiveRewardModel, AutoModel, AutoModelForCausalLM])
def test_an_adapter_comes_back(auto, base, tmp_path):
    expected = save_lora(base, tmp_path / "arm")
    loaded = auto.from_pretrained(tmp_path / "arm")
    assert isinstance(loaded, AutoregressiveRewardModel) and not loaded.training
    assert isinstance(loaded.backbone, PeftModel)
    assert torch.equal(logits(loaded), expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_repository_is_a_peft_repository(base, tmp_path):
    expected = save_lora(base, tmp_path / "arm")
    assert {path.name for path in (tmp_path / "arm").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "config.json", "generation_config.json",
    }  # fmt: skip
    assert torch.equal(logits(PeftModel.from_pretrained(copy_of(base), tmp_path / "arm")), expected)


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapter_weights_come_back_bit_for_bit(base, base_dtype, dtype, tmp_path):
    backbone = lora(saved(base.to(base_dtype), tmp_path / "base2"))
    for name, parameter in backbone.named_parameters():
        if "lora_" in name:
            parameter.data = (parameter.data * 1.0001).to(dtype)
    arm = AutoregressiveRewardModel.from_backbone(backbone)
    arm.save_pretrained(tmp_path / "arm")
    assert {tensor.dtype for tensor in load_file(tmp_path / "arm" / "adapter_model.safetensors").values()} == {dtype}
    for loaded in (
        AutoModel.from_pretrained(tmp_path / "arm"),
        AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=copy_of(base)),
    ):
        assert_same_state(loaded, state_of(arm))
        assert torch.equal(logits(loaded), logits(arm))


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
def test_mixed_adapter_dtypes_come_back(base, tmp_path):
    backbone = lora(copy_of(base), modules_to_save=["lm_head"])
    backbone.get_base_model().lm_head.modules_to_save["default"].to(torch.float64)
    for name, parameter in backbone.named_parameters():
        if "lora_A" in name:
            parameter.data = parameter.data.bfloat16()
    arm = AutoregressiveRewardModel.from_backbone(backbone)
    arm.save_pretrained(tmp_path / "arm")
    assert_same_state(AutoModel.from_pretrained(tmp_path / "arm"), state_of(arm))


def test_the_bases_name_is_known_even_where_peft_did_not_see_it(tmp_path):
    nameless = tiny("llama")
    nameless.config._name_or_path = "org/base"
    backbone = lora(nameless)
    assert not backbone.peft_config["default"].base_model_name_or_path
    AutoregressiveRewardModel.from_backbone(backbone).save_pretrained(tmp_path)
    for file, path in (("adapter_config.json", []), ("config.json", ["adapter"])):
        fields = json.loads((tmp_path / file).read_text())
        for key in path:
            fields = fields[key]
        assert fields["base_model_name_or_path"] == "org/base"


def test_the_bases_name_survives_loading_with_another(base, tmp_path):
    save_lora(base, tmp_path / "arm")
    moved = saved(base, tmp_path / "moved")
    loaded = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=moved)
    loaded.save_pretrained(tmp_path / "again")
    for file in ("adapter_config.json", "config.json"):
        first, again = (json.loads((tmp_path / name / file).read_text()) for name in ("arm", "again"))
        assert first == again


def test_an_adapter_without_a_name_for_its_base_says_so(tmp_path, caplog):
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        AutoregressiveRewardModel.from_backbone(lora(tiny("llama"))).save_pretrained(tmp_path)
    finally:
        logging.disable_propagation()
    assert "does not know the name of its base model" in caplog.text
    with pytest.raises(ValueError, match=r"does not name its base model. Pass the loaded model as `base_model=`"):
        AutoModel.from_pretrained(tmp_path)
    AutoregressiveRewardModel.from_pretrained(tmp_path, base_model=tiny("llama"))


def test_an_adapter_of_another_name_is_saved_in_the_root(base, tmp_path):
    backbone = lora(copy_of(base), name="helpful")
    from peft import LoraConfig

    backbone.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    arm = AutoregressiveRewardModel.from_backbone(backbone)
    expected = logits(arm)
    arm.save_pretrained(tmp_path / "arm")
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "arm")), expected)
    assert not [path for path in (tmp_path / "arm").rglob("*") if path.is_file() and path.parent != tmp_path / "arm"]


def test_a_plain_adapter_repository(base, tmp_path):
    backbone = lora(copy_of(base))
    backbone.save_pretrained(tmp_path / "plain")
    for model in (None, copy_of(base)):
        loaded = AutoregressiveRewardModel.from_pretrained(tmp_path / "plain", base_model=model)
        assert torch.equal(logits(loaded), logits(backbone))
        assert loaded.config.adapter == {"type": "LORA", "base_model_name_or_path": str(tmp_path / "base")}


@LOADS_ADAPTERS
def test_a_model_that_loaded_its_adapter_itself(base, tmp_path):
    backbone = lora(copy_of(base))
    backbone.save_pretrained(tmp_path / "plain")
    arm = AutoregressiveRewardModel.from_backbone(AutoModelForCausalLM.from_pretrained(tmp_path / "plain"))
    assert arm.config.adapter == {"type": "LORA", "base_model_name_or_path": str(tmp_path / "base")}
    assert torch.equal(logits(arm), logits(backbone))
    arm.save_pretrained(tmp_path / "arm")
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "arm")), logits(backbone))


def test_an_adapter_of_a_reward_model(base, tmp_path):
    AutoregressiveRewardModel.from_backbone(base).save_pretrained(tmp_path / "full")
    inner = AutoModel.from_pretrained(tmp_path / "full").causal_lm
    arm = AutoregressiveRewardModel.from_backbone(lora(inner))
    arm.save_pretrained(tmp_path / "arm")
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "arm")), logits(arm))


def test_generation_config_comes_back(base, tmp_path):
    arm = AutoregressiveRewardModel.from_backbone(lora(copy_of(base)))
    arm.generation_config.max_new_tokens = 7
    arm.save_pretrained(tmp_path / "arm")
    assert AutoModel.from_pretrained(tmp_path / "arm").generation_config.max_new_tokens == 7
    shared = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base)
    assert shared.causal_lm.generation_config.max_new_tokens == 7
    assert base.generation_config.max_new_tokens is None


def test_training_can_go_on(base, tmp_path):
    save_lora(base, tmp_path / "arm")
    loaded = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", is_trainable=True)
    assert {name.split(".")[-3] for name, p in loaded.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_adapter_and_full_weights_take_turns_in_one_directory(base, tmp_path):
    full = AutoregressiveRewardModel.from_backbone(copy_of(base))
    full.save_pretrained(tmp_path / "arm", max_shard_size="8KB")
    expected = save_lora(base, tmp_path / "arm")
    assert not list((tmp_path / "arm").glob("model*"))
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "arm")), expected)
    full.save_pretrained(tmp_path / "arm")
    assert not list((tmp_path / "arm").glob("adapter*"))
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "arm")), logits(full))


def test_another_models_weights_are_not_removed(base, tmp_path):
    with pytest.raises(ValueError, match=r"holds full weights of another model .* Choose another directory"):
        save_lora(base, tmp_path / "base")
    lora(copy_of(base)).save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="holds an adapter of another model"):
        AutoregressiveRewardModel.from_backbone(base).save_pretrained(tmp_path / "plain")
    assert (tmp_path / "base" / "model.safetensors").exists() and (tmp_path / "plain" / "adapter_config.json").exists()


def test_several_active_adapters_are_refused(base):
    from peft import LoraConfig

    backbone = lora(copy_of(base))
    backbone.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    backbone.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match=r"2 active adapters .* Activate one"):
        AutoregressiveRewardModel.from_backbone(backbone)


# ---------------------------------------------------------------------- on a base that is shared


def test_nothing_of_the_base_is_copied(base, tmp_path):
    save_lora(base, tmp_path / "arm")
    arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base)
    theirs = {tensor.data_ptr() for tensor in base.state_dict().values()}
    inside = {name: tensor for name, tensor in arm.state_dict().items() if "lora_" not in name}
    assert len(inside) == len(base.state_dict())
    assert all(tensor.data_ptr() in theirs for tensor in inside.values())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_the_base_stays_bit_identical(kind, dtype, tied, tmp_path):
    base = saved(tiny(kind, tie_word_embeddings=tied).to(dtype), tmp_path / "base")
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    expected = save_lora(base, tmp_path / "arm", target_modules=targets, fan_in_fan_out=kind == "gpt2")
    before, state = logits(base), state_of(base)
    flags = [parameter.requires_grad for parameter in base.parameters()]
    arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base)
    assert torch.equal(logits(arm), expected)
    assert torch.equal(logits(base), before) and not torch.equal(expected, before)
    assert_same_state(base, state)
    assert [parameter.requires_grad for parameter in base.parameters()] == flags
    assert not hasattr(base, "peft_config") and not any(hasattr(module, "lora_A") for module in base.modules())


def test_several_ranks_on_one_base_in_threads(base, tmp_path):
    expected = {None: logits(base)}
    models = {None: base}
    for rank in (1, 4, 8):
        expected[rank] = save_lora(base, tmp_path / f"arm{rank}", rank=rank, seed=rank)
        models[rank] = AutoregressiveRewardModel.from_pretrained(tmp_path / f"arm{rank}", base_model=base)
    wrong = []

    def work(rank):
        wrong.extend(rank for _ in range(20) if not torch.equal(logits(models[rank]), expected[rank]))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_guiding_a_base_by_adapters_on_itself(base, tmp_path):
    save_lora(base, tmp_path / "arm")
    shared = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base)
    apart = AutoModel.from_pretrained(tmp_path / "arm")
    inputs = prompts(padded=True) | {"max_new_tokens": 6, "do_sample": False}
    plain = base.generate(**inputs)
    first = base.generate(**inputs, reward_models=[shared], alpha=1.0)
    assert torch.equal(first, base.generate(**inputs, reward_models=[apart], alpha=1.0))
    assert torch.equal(base.generate(**inputs), plain)


def test_casting_and_moving_a_shared_reward_model_spares_its_base(base, tmp_path):
    save_lora(base, tmp_path / "arm")
    arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base)
    state = state_of(base)
    arm.half().to("cpu")
    assert_same_state(base, state)
    assert {p.dtype for name, p in arm.named_parameters() if "lora_" in name} == {torch.float16}
    assert torch.isfinite(logits(arm)).all()
    with pytest.raises(
        ValueError, match=r"shares the weights of its base model, which is on cpu, .* Move the base model first"
    ):
        arm.to("meta")
    assert arm.device == torch.device("cpu")


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM])
def test_the_auto_classes_share_too(auto, base, tmp_path):
    save_lora(base, tmp_path / "arm")
    arm = auto.from_pretrained(tmp_path / "arm", base_model=base)
    theirs = {parameter.data_ptr() for parameter in base.parameters()}
    assert sum(parameter.data_ptr() not in theirs for parameter in arm.parameters()) == 8


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_adapters_that_bring_modules_of_their_own(tied, tmp_path):
    base = saved(tiny("llama", tie_word_embeddings=tied), tmp_path / "base")
    backbone = lora(copy_of(base), modules_to_save=["lm_head"])
    backbone.get_base_model().lm_head.modules_to_save["default"].weight.data.mul_(1.5)
    arm = AutoregressiveRewardModel.from_backbone(backbone)
    expected, before = logits(arm), logits(base)
    arm.save_pretrained(tmp_path / "arm")
    for model in (None, base):
        assert torch.equal(
            logits(AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=model)), expected
        )
    assert torch.equal(logits(base), before)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_adapters_on_the_embeddings(tied, tmp_path):
    base = saved(tiny("llama", tie_word_embeddings=tied), tmp_path / "base")
    backbone = lora(copy_of(base), target_modules=["embed_tokens", "q_proj"])
    arm = AutoregressiveRewardModel.from_backbone(backbone)
    expected, before = logits(arm), logits(base)
    arm.save_pretrained(tmp_path / "arm")
    for model in (None, base):
        assert torch.equal(
            logits(AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=model)), expected
        )
    assert torch.equal(logits(base), before)


def test_an_adapter_file_with_embeddings_does_not_overwrite_the_bases(base, tmp_path):
    backbone = lora(copy_of(base))
    backbone.get_input_embeddings().weight.data.mul_(2.0)
    arm = AutoregressiveRewardModel.from_backbone(backbone)
    expected, state = logits(arm), state_of(base)
    arm.save_pretrained(tmp_path / "arm", save_embedding_layers=True)
    shared = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base)
    assert torch.equal(logits(shared), expected)
    assert_same_state(base, state)


def test_a_base_that_was_unloaded_or_compiled_is_plain_again(base, tmp_path):
    expected = save_lora(base, tmp_path / "arm")
    unloaded = lora(copy_of(base), seed=7).unload()
    assert torch.equal(
        logits(AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=unloaded)), expected
    )
    compiled = torch.compile(base, backend="eager")
    assert torch.equal(
        logits(AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=compiled)), expected
    )


def test_a_base_under_accelerates_hooks(base, tmp_path):
    from accelerate import cpu_offload, dispatch_model

    expected = save_lora(base, tmp_path / "arm")
    before = logits(base)
    dispatched = dispatch_model(base, {"": "cpu"}, force_hooks=True)
    assert hasattr(dispatched, "_hf_hook")
    arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=dispatched)
    assert torch.equal(logits(arm), expected) and torch.equal(logits(dispatched), before)
    assert dispatched.hf_device_map == {"": "cpu"}
    offloaded = cpu_offload(copy_of(base), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"`base_model` is offloaded: .* Load it without offloading"):
        AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=offloaded)


def test_offloaded_bases(base, tmp_path):
    """Full weights run from disk; what an adapter cannot do is said."""
    on_disk = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    offload = {"device_map": on_disk | {"lm_head": "disk"}, "offload_folder": tmp_path / "offload"}
    full = AutoregressiveRewardModel.from_backbone(base)
    full.save_pretrained(tmp_path / "full")
    loaded = AutoregressiveRewardModel.from_pretrained(tmp_path / "full", **offload)
    assert loaded.hf_device_map["lm_head"] == "disk"
    assert torch.equal(loaded.token_rewards(IDS), full.token_rewards(IDS).detach())
    save_lora(base, tmp_path / "arm")
    with pytest.raises(ValueError, match="cannot be put into its base, which is offloaded to CPU or disk"):
        AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", **offload)


# ---------------------------------------------------------------------- bases that do not fit


def test_bases_that_do_not_fit_are_refused(base, tmp_path):
    save_lora(base, tmp_path / "arm")
    misfits = {
        "size mismatch": tiny("llama", hidden_size=64, head_dim=16),
        "Target modules": tiny("gpt2"),
        "8 of its tensors|4 of its tensors": tiny("llama", num_hidden_layers=1),
        "4 places stay empty": tiny("llama", num_hidden_layers=3),
    }
    for detail, model in misfits.items():
        before, state = logits(model), state_of(model)
        with pytest.raises(ValueError, match=f"does not fit the given {type(model).__name__}.*(?:{detail})"):
            AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=model)
        assert_same_state(model, state)
        assert torch.equal(logits(model), before)
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_bases_that_cannot_be_shared_are_refused(base, tmp_path):
    save_lora(base, tmp_path / "arm")
    for model in (lora(copy_of(base)), lora(copy_of(base)).get_base_model()):
        with pytest.raises(ValueError, match="`base_model` already has adapters inside"):
            AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=model)
    with pytest.raises(TypeError, match="`base_model` must be a loaded transformers model, got str"):
        AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=str(tmp_path / "base"))
    with pytest.raises(ValueError, match="`dtype` has no effect with `base_model`"):
        AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=base, dtype=torch.bfloat16)


def test_adapters_of_another_kind_are_refused(base, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    prompt_tuned = get_peft_model(copy_of(base), PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(TypeError, match="prompt-learning adapter"):
        AutoregressiveRewardModel.from_backbone(prompt_tuned)
    prompt_tuned.save_pretrained(tmp_path / "prompt")
    with pytest.raises(TypeError, match=r"is a PROMPT_TUNING adapter, .* Train a LoRA adapter instead"):
        AutoregressiveRewardModel.from_pretrained(tmp_path / "prompt")


def test_resized_embeddings(base, tmp_path):
    """New rows are saved by PEFT with the adapter; the base has to have as many."""
    grown = copy_of(base)
    grown.resize_token_embeddings(VOCAB + 4)
    arm = AutoregressiveRewardModel.from_backbone(lora(grown))
    arm.save_pretrained(tmp_path / "arm")
    with pytest.raises(ValueError, match=r"does not fit the given LlamaForCausalLM .*size mismatch"):
        AutoModel.from_pretrained(tmp_path / "arm")
    other = copy_of(base)
    other.resize_token_embeddings(VOCAB + 4)
    loaded = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm", base_model=other)
    assert torch.equal(logits(loaded), logits(arm))


# ---------------------------------------------------------------------- the base under an adapter


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")  # of the oldest PEFT
@pytest.mark.parametrize("kind", ["peft", "peft with a head", pytest.param("transformers", marks=LOADS_ADAPTERS)])
def test_an_adapter_is_off_for_a_while(kind, base):
    """Also where something fails meanwhile; what was frozen or trained stays so."""
    from peft import LoraConfig

    expected, model = logits(base), copy_of(base)
    if kind == "transformers":
        model.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    else:
        model = lora(model, modules_to_save=["lm_head"] if "head" in kind else None)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    next(parameter for parameter in model.parameters() if parameter.requires_grad).requires_grad_(False)
    flags, adapted = [parameter.requires_grad for parameter in model.parameters()], logits(model)
    with pytest.raises(RuntimeError, match="meanwhile"), adapter_disabled(model):
        assert torch.equal(logits(model), expected)
        raise RuntimeError("meanwhile")
    assert torch.equal(logits(model), adapted) and not torch.equal(adapted, expected)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")  # of the oldest PEFT
def test_what_is_trained_of_the_base_itself(base):
    model = lora(copy_of(base), modules_to_save=["lm_head"])
    assert trained_base_parameters(model) == []
    model.get_base_model().model.norm.weight.requires_grad_(True)
    assert trained_base_parameters(model) == ["base_model.model.model.norm.weight"]
    biased = trained_base_parameters(lora(tiny("gpt2"), target_modules=["c_attn"], fan_in_fan_out=True, bias="all"))
    assert biased and all(name.endswith("bias") for name in biased)
