"""Which LoRA adapters may run on the base's weights in vLLM, and what is said of others. Runs without vLLM."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from genarm_hf.integrations.vllm.adapters import Adapter
from genarm_hf.integrations.vllm.composition import compose, open_part, write

from ..cli.conftest import build_tokenizer
from ..conftest import tiny

peft = pytest.importorskip("peft", reason="PEFT is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny("llama", tie_word_embeddings=False).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    """Saves an adapter, and gives its folder."""

    def save(**fields):
        config = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"} | fields
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base)
        peft.get_peft_model(model, peft.LoraConfig(**config)).save_pretrained(tmp_path / "arm")
        return tmp_path / "arm"

    return save


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def composed(base, *arms):
    return compose(open_part(str(base)), [open_part(str(arm)) for arm in arms])


def test_an_adapter_is_placed_beside_its_base(base, adapter, tmp_path):
    composition = composed(base, adapter(lora_alpha=6))
    write(composition, tmp_path / "guided")
    fields = json.loads((tmp_path / "guided" / "config.json").read_text())
    assert fields["architectures"] == ["GenARMSharedForCausalLM"]
    assert fields["genarm_arms"] == [
        {"model": str(tmp_path / "arm"), "revision": None, "base": str(base), "alpha": 1.0}
    ]
    assert composition.arms[0].adapter == Adapter(str(base), 6, {}, use_rslora=False)


def test_a_base_named_by_a_relative_path_is_found_from_everywhere(base, adapter, monkeypatch):
    folder = edit(adapter(), base_model_name_or_path="base")
    monkeypatch.chdir(base.parent)
    place = composed(base, folder).arms[0].place
    monkeypatch.chdir("/")
    assert open_part(place["model"], place["revision"], place["base"]).adapter.base == str(base)


@pytest.mark.parametrize("layer", ["model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj"])
@pytest.mark.parametrize("pattern", [{}, {"q_proj": 3}, {r"layers\.1\..*q_proj": 5}, {"v_proj": 3}, {"j": 7}])
@pytest.mark.parametrize("rslora", [False, True])
def test_scaling_is_pefts(layer, pattern, rslora):
    from peft.utils.other import get_pattern_key

    alpha = pattern.get(get_pattern_key(pattern, layer), 16)
    expected = alpha / (2.0 if rslora else 4)
    assert Adapter("base", 16, pattern, rslora).scaling(layer, 4) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"use_dora": True}, "`use_dora` is set"),
        ({"lora_bias": True}, "`lora_bias` is set"),
        ({"bias": "lora_only", "target_modules": ["c_attn"]}, "it holds .*bias"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` is set"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "it holds .*embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "it holds .*lm_head.*only LoRA on q_proj"),
        ({"trainable_token_indices": [3]}, "`trainable_token_indices` is set"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "`layer_replication` is set"),
        ({"init_lora_weights": "olora"}, "`init_lora_weights='olora'` trained it on changed weights"),
    ],
)
def test_what_is_more_than_low_rank_terms_is_refused(base, adapter, tmp_path, fields, reason):
    if fields.get("bias"):  # only some architectures have any
        tiny("gpt2").save_pretrained(tmp_path / "base")
        base = tmp_path / "base"
        config = peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, **fields)
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "arm")
        folder = tmp_path / "arm"
        if not any("bias" in name for name in load_file(folder / "adapter_model.safetensors")):
            pytest.skip("this PEFT saves adapters without the biases that belong to them")
    else:
        folder = adapter(**fields)
    with pytest.raises(ValueError, match=rf"{reason}.* Merge it into its base"):
        open_part(str(folder))


def test_fields_that_nobody_knows_yet_are_refused(adapter):
    folder = adapter()
    open_part(str(edit(folder, use_later_invention=False)))
    with pytest.raises(ValueError, match="`use_later_invention` is set"):
        open_part(str(edit(folder, use_later_invention=True)))


def test_other_kinds_of_adapters_are_refused(adapter):
    with pytest.raises(ValueError, match="is a IA3 adapter, not LoRA"):
        open_part(str(edit(adapter(), peft_type="IA3")))


def test_half_a_term_is_refused(adapter):
    file = adapter() / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)
    with pytest.raises(ValueError, match="not both matrices"):
        open_part(str(file.parent))


def test_files_that_cannot_be_read_are_named(adapter):
    file = adapter() / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match="could not be read"):
        open_part(str(file.parent))
    file.unlink()
    (file.parent / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle"):
        open_part(str(file.parent))


# ---------------------------------------------------------------------- whose adapter it is


def test_an_adapter_of_another_model_is_refused(base, adapter, tmp_path):
    """Even of a copy: its weights may be others."""
    copy = shutil.copytree(base, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"is a LoRA adapter of '.*base', not of the base '.*copy': merge it"):
        composed(copy, adapter())


def test_an_adapter_whose_base_is_gone_or_not_named(base, adapter):
    folder = adapter()
    with pytest.raises(ValueError, match=r"cannot be opened.*Correct `base_model_name_or_path`"):
        composed(base, edit(folder, base_model_name_or_path="/nowhere"))
    with pytest.raises(ValueError, match="names no base"):
        composed(base, edit(folder, base_model_name_or_path=None))


def test_both_kinds_of_reward_models_at_once_are_refused(base, adapter):
    with pytest.raises(ValueError, match="the one kind or the other: merge it into its base"):
        composed(base, base, adapter())


def test_an_adapter_as_the_base_is_refused(base, adapter):
    with pytest.raises(ValueError, match=r"The base .* is a LoRA adapter"):
        composed(adapter(), base)


def test_a_quantised_base_is_refused(base, adapter, tmp_path):
    quantised = shutil.copytree(base, tmp_path / "quantised")
    fields = json.loads((quantised / "config.json").read_text()) | {"quantization_config": {"quant_method": "fp8"}}
    (quantised / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="LoRA reward models on quantised weights"):
        composed(quantised, edit(adapter(), base_model_name_or_path=str(quantised)))
