"""Repositories of every kind, local and on a simulated hub; and what is said of those that cannot be loaded."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, pipeline

from genarm_hf import AutoregressiveRewardModel, GenARMConfig
from tests.conftest import prompts, tiny
from tests.reward_models import (
    LOADS_ADAPTERS,
    PEFT_WARNINGS,
    as_hub_cache,
    assert_same_state,
    lora,
    state_of,
    word_tokenizer,
)

pytestmark = PEFT_WARNINGS

IDS = prompts(2, 8)["input_ids"]
AUTO = [AutoregressiveRewardModel, AutoModel, AutoModelForCausalLM]


def saved_base(directory, kind="llama", seed=0, **changes):
    tiny(kind, seed, **changes).save_pretrained(directory)
    return AutoModelForCausalLM.from_pretrained(directory)


@pytest.fixture
def full(tmp_path):
    AutoregressiveRewardModel.from_backbone(tiny("llama", seed=3), beta=0.1).save_pretrained(tmp_path / "full")
    return tmp_path / "full"


@pytest.fixture
def adapted(tmp_path):
    arm = AutoregressiveRewardModel.from_backbone(lora(saved_base(tmp_path / "base")), beta=0.1)
    arm.save_pretrained(tmp_path / "adapted")
    return tmp_path / "adapted"


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def edit(path, **changes):
    fields = json.loads(path.read_text())
    fields.update(changes)
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))


# ---------------------------------------------------------------------- what loads


def test_a_plain_causal_lm(tmp_path):
    base = saved_base(tmp_path / "plain", "gpt2")
    arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "plain")
    assert torch.equal(logits(arm), logits(base)) and not arm.training
    assert (arm.config.beta, arm.config.adapter, arm.config.text_config.model_type) == (None, None, "gpt2")
    assert arm.config._name_or_path == str(tmp_path / "plain")


def test_a_configuration_may_be_given(full, tmp_path):
    config = GenARMConfig.from_pretrained(full)
    config.alpha = 3.0
    for auto in AUTO:
        assert auto.from_pretrained(full, config=config).config.alpha == 3.0
    assert AutoregressiveRewardModel.from_pretrained(full, config=str(full)).config.beta == 0.1


def test_a_subfolder(full, adapted, tmp_path):
    (tmp_path / "repo").mkdir()
    shutil.copytree(full, tmp_path / "repo" / "a")
    shutil.copytree(adapted, tmp_path / "repo" / "b")
    for folder, alone in (("a", full), ("b", adapted)):
        loaded = AutoregressiveRewardModel.from_pretrained(tmp_path / "repo", subfolder=folder)
        assert torch.equal(logits(loaded), logits(AutoModel.from_pretrained(alone)))


# ---------------------------------------------------------------------- the hub, as its cache


@pytest.fixture
def hub(full, adapted, tmp_path, monkeypatch):
    """`org/full`, `org/adapted`, their base, and a plain adapter of it, as if they had been downloaded."""
    edit(adapted / "adapter_config.json", base_model_name_or_path="org/base")
    shutil.copytree(adapted, tmp_path / "peft")
    (tmp_path / "peft" / "config.json").unlink()
    folders = {"full": full, "adapted": adapted, "base": tmp_path / "base", "peft": tmp_path / "peft"}
    as_hub_cache(tmp_path / "cache", {f"org/{name}": folder for name, folder in folders.items()})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return folders


@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("name", ["full", "adapted"])
def test_reward_models_load_from_the_hub(auto, name, hub):
    loaded = auto.from_pretrained(f"org/{name}")
    assert isinstance(loaded, AutoregressiveRewardModel)
    assert loaded.config.beta == 0.1 and loaded.config._name_or_path == f"org/{name}"
    assert (loaded.config.adapter is None) == (name == "full")
    base = AutoModelForCausalLM.from_pretrained(hub["base"])
    local = {"base_model": base} if name == "adapted" else {}
    assert torch.equal(logits(loaded), logits(AutoregressiveRewardModel.from_pretrained(hub[name], **local)))


def test_plain_repositories_load_from_the_hub(hub):
    base, adapter = (AutoregressiveRewardModel.from_pretrained(f"org/{name}") for name in ("base", "peft"))
    assert torch.equal(logits(base), logits(AutoModelForCausalLM.from_pretrained(hub["base"])))
    assert torch.equal(logits(adapter), logits(AutoModel.from_pretrained("org/adapted")))
    assert adapter.config.adapter["base_model_name_or_path"] == "org/base"


@LOADS_ADAPTERS
def test_plain_adapters_stay_plain_for_the_auto_classes(hub):
    assert type(AutoModelForCausalLM.from_pretrained("org/peft")).__name__ == "LlamaForCausalLM"


def test_sharing_with_a_hub_adapter(hub):
    base = AutoModelForCausalLM.from_pretrained("org/base")
    state = state_of(base)
    for auto in AUTO:
        assert torch.equal(
            logits(auto.from_pretrained("org/adapted", base_model=base)), logits(auto.from_pretrained("org/adapted"))
        )
    assert_same_state(base, state)


def test_configurations_load_from_the_hub(hub):
    for name in ("full", "adapted"):
        assert isinstance(AutoConfig.from_pretrained(f"org/{name}"), GenARMConfig)


def test_a_cache_directory_of_ones_own(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nowhere"))
    own = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    for name in ("full", "adapted", "base", "peft"):
        AutoregressiveRewardModel.from_pretrained(f"org/{name}", **own)


def test_a_revision(hub, tmp_path):
    refs = tmp_path / "cache" / "models--org--adapted" / "refs"
    (refs / "v1").write_text((refs / "main").read_text())
    (refs / "main").unlink()
    for auto in AUTO:
        assert isinstance(auto.from_pretrained("org/adapted", revision="v1"), AutoregressiveRewardModel)


def test_an_unknown_hub_id(hub):
    with pytest.raises(OSError, match="'org/unknown' could not be loaded: We couldn't connect"):
        AutoregressiveRewardModel.from_pretrained("org/unknown")


@pytest.mark.parametrize("name", ["full", "adapted"])
def test_a_pipeline_of_the_reward_model_itself(name, hub, tmp_path):
    """It generates what it likes best, from a directory as from the hub."""
    word_tokenizer().save_pretrained(tmp_path / "base")
    expected = AutoModel.from_pretrained(f"org/{name}").generate(
        torch.tensor([[1, 5, 6]]), max_new_tokens=4, do_sample=False
    )
    for model in (str(hub[name]), f"org/{name}"):
        pipe = pipeline("text-generation", model=model, tokenizer=str(tmp_path / "base"))
        assert isinstance(pipe.model, AutoregressiveRewardModel)
        output = pipe("w5 w6", max_new_tokens=4, do_sample=False, return_tensors=True)
        assert output[0]["generated_token_ids"] == expected[0].tolist()


# ---------------------------------------------------------------------- what does not


def refused(path, match, kind=ValueError, **kwargs):
    """Refused by the class and by the Auto classes, in one sentence or two, without a model being built."""
    with pytest.raises(kind, match=match) as caught:
        AutoregressiveRewardModel.from_pretrained(path, **kwargs)
    assert "\n" not in str(caught.value)
    if isinstance(AutoConfig.from_pretrained(path), GenARMConfig):
        with pytest.raises(kind, match=match):
            AutoModel.from_pretrained(path, **kwargs)


@pytest.fixture
def nothing_is_built(monkeypatch):
    """Errors that need no model must come before one."""
    from torch.nn import Linear

    def build(self, *args, **kwargs):
        raise AssertionError("a model was built before the error")

    return lambda: monkeypatch.setattr(Linear, "__init__", build)


@pytest.mark.parametrize("path", ["/no/such/directory", "./nothing", "~/nothing"])
def test_a_missing_directory(path):
    with pytest.raises(
        ValueError, match=r"is not a directory. Pass the directory that `save_pretrained` wrote, or a hub id"
    ):
        AutoregressiveRewardModel.from_pretrained(path)


def test_a_file_instead_of_a_directory(full):
    with pytest.raises(ValueError, match="is not a directory"):
        AutoregressiveRewardModel.from_pretrained(full / "model.safetensors")


@pytest.mark.parametrize("bytes_kept", [0, 5, 3000])
def test_weights_that_were_cut_off(full, adapted, bytes_kept, nothing_is_built):
    for repo, name in ((full, "model.safetensors"), (adapted, "adapter_model.safetensors")):
        content = (repo / name).read_bytes()
        (repo / name).write_bytes(content[:bytes_kept])
    nothing_is_built()
    for repo in (full, adapted):
        refused(repo, r"The weights of .* could not be read: .* Download or save the repository again")


def test_a_shard_that_is_missing(full):
    loaded = AutoModel.from_pretrained(full)
    loaded.save_pretrained(full, max_shard_size="8KB")
    sorted(full.glob("model-*"))[0].unlink()
    refused(full, "The weights of .* could not be read")


def test_pickles_are_not_read(full, adapted, tmp_path, nothing_is_built):
    torch.save({}, full / "pytorch_model.bin")
    (full / "model.safetensors").unlink()
    torch.save({}, adapted / "adapter_model.bin")
    (adapted / "adapter_model.safetensors").unlink()
    base = saved_base(tmp_path / "plain")
    torch.save(base.state_dict(), tmp_path / "plain" / "pytorch_model.bin")
    (tmp_path / "plain" / "model.safetensors").unlink()
    nothing_is_built()
    refused(full, "holds its weights in pytorch_model.bin, a pickle file, which can run code when read. Convert it")
    refused(adapted, "holds its weights in adapter_model.bin, a pickle file")
    refused(tmp_path / "plain", "holds its weights in pytorch_model.bin, a pickle file")
    refused(tmp_path / "plain", "`use_safetensors=False` asks for a pickle file", use_safetensors=False)


def test_an_adapters_base_in_pickle_format_is_not_read(adapted, tmp_path):
    torch.save({}, tmp_path / "base" / "pytorch_model.bin")
    (tmp_path / "base" / "model.safetensors").unlink()
    refused(adapted, "base' holds its weights in pytorch_model.bin, a pickle file")


def test_an_adapter_without_its_base(adapted, tmp_path, nothing_is_built):
    nothing_is_built()
    for name in (str(tmp_path / "gone"), "org/gone"):
        edit(adapted / "adapter_config.json", base_model_name_or_path=name)
        refused(
            adapted, f"is an adapter of '{name}', which could not be loaded. Pass the loaded model as `base_model=`"
        )
    edit(adapted / "adapter_config.json", base_model_name_or_path=None)
    refused(adapted, "does not name its base model")


def test_an_adapter_of_an_adapter(adapted, tmp_path):
    shutil.copytree(adapted, tmp_path / "second")
    edit(tmp_path / "second" / "adapter_config.json", base_model_name_or_path=str(adapted))
    refused(
        tmp_path / "second", "is an adapter of .*adapted', which is an adapter itself. Merge that one into its base"
    )


def test_a_base_model_for_full_weights(full, tmp_path):
    base = saved_base(tmp_path / "base2")
    refused(full, r"`base_model` is for adapters, and .* has no adapter_config.json. Leave it out", base_model=base)


def test_a_classifier(tmp_path, nothing_is_built):
    from transformers import LlamaForSequenceClassification

    LlamaForSequenceClassification(tiny("llama").config).save_pretrained(tmp_path / "rm")
    nothing_is_built()
    refused(tmp_path / "rm", "is a LlamaForSequenceClassification, not a causal LM. .* must be a causal LM", TypeError)


def test_an_encoder_decoder(tmp_path, nothing_is_built):
    tiny("t5").save_pretrained(tmp_path / "t5")
    nothing_is_built()
    refused(tmp_path / "t5", "is a t5 model, an encoder-decoder", TypeError)


def test_a_checkpoint_without_a_head(tmp_path):
    tiny("llama").model.save_pretrained(tmp_path / "headless")
    refused(
        tmp_path / "headless",
        r"not those of a complete LlamaForCausalLM: 1 tensors are missing, 'lm_head.weight' first",
    )


def test_a_config_without_text_config(full, adapted, nothing_is_built):
    edit(full / "config.json", text_config=...)
    edit(adapted / "config.json", text_config=...)
    assert AutoModel.from_pretrained(adapted).config.get_text_config().vocab_size == 48  # its base knows
    nothing_is_built()
    refused(full, "has no `text_config`, the configuration of the causal LM underneath")


def test_a_text_config_without_a_model_type(full):
    edit(full / "config.json", text_config={"vocab_size": 48})
    with pytest.raises(ValueError, match=r"`text_config` must name its `model_type` .* got keys \['vocab_size'\]"):
        AutoModel.from_pretrained(full)


def test_weights_of_other_shapes(full):
    fields = json.loads((full / "config.json").read_text())
    edit(full / "config.json", text_config=fields["text_config"] | {"vocab_size": 50})
    refused(full, "have other shapes than its config.json says")


def test_files_that_are_no_json(adapted):
    (adapted / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config.json of .* is not valid JSON"):
        AutoregressiveRewardModel.from_pretrained(adapted)
    (adapted / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        AutoregressiveRewardModel.from_pretrained(adapted)


def test_an_adapter_that_needs_an_absent_package(adapted):
    edit(adapted / "adapter_config.json", megatron_config={"a": 1})
    with pytest.raises(ImportError, match=r"adapter_config.json of .* asks for a package .* not installed: No module"):
        AutoregressiveRewardModel.from_pretrained(adapted)


def test_code_in_a_repository_is_not_run(full):
    """Neither by loading, nor by asking whether it may be."""
    edit(full / "config.json", auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.EvilConfig"})
    (full / "evil.py").write_text("raise SystemExit('this code must not run')")
    for auto in AUTO:
        assert isinstance(auto.from_pretrained(full), AutoregressiveRewardModel)


WRONG_FIELDS = [
    ("full", "config.json", {"text_config": [1]}, "config.json of .* cannot be used"),
    ("full", "config.json", {"beta": "high"}, "config.json of .* cannot be used: .*`beta` must be a positive number"),
    ("full", "config.json", {"dtype": "no-such-type"}, "cannot be used|could not be loaded"),
    ("adapted", "adapter_config.json", {"peft_type": None}, "must name a kind of adapter as `peft_type`, got None"),
    ("adapted", "adapter_config.json", {"peft_type": "NO_SUCH"}, "adapter_config.json of .* cannot be used"),
    ("adapted", "adapter_config.json", {"r": "x"}, "does not fit|cannot be used"),
    ("adapted", "adapter_config.json", {"base_model_name_or_path": 3}, "does not name its base model"),
    ("base", "config.json", {"num_attention_heads": 0}, "config.json of .* cannot be used: ZeroDivisionError"),
    ("base", "config.json", {"hidden_size": "wide"}, "config.json of .* cannot be used"),
    ("base", "config.json", {"vocab_size": -1}, "could not be loaded|cannot be used"),
]


@pytest.mark.parametrize(("name", "file", "fields", "message"), WRONG_FIELDS)
def test_fields_that_cannot_be_meant(name, file, fields, message, adapted, full, tmp_path):
    path = tmp_path / name / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ValueError, match=message):
        AutoregressiveRewardModel.from_pretrained(tmp_path / name)
