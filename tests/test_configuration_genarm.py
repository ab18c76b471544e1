"""The configuration: what it refuses, and that it goes through JSON unchanged."""

import math

import pytest
from transformers import AutoConfig, LlamaConfig

from genarm_hf import GenARMConfig


def test_it_goes_through_json_unchanged(tmp_path):
    config = GenARMConfig(
        text_config=LlamaConfig(vocab_size=64, hidden_size=32, rope_theta=5000.0),
        beta=0.05,
        alpha=-0.5,
        objective="helpful",
        prompt_template="{{user}} {prompt}\n",
        adapter={"type": "LORA", "base_model_name_or_path": "org/base"},
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, GenARMConfig) and isinstance(loaded.text_config, LlamaConfig)
    assert loaded.to_dict() == config.to_dict() | {
        "_name_or_path": loaded._name_or_path,
        "transformers_version": loaded.transformers_version,
    }
    assert loaded.get_text_config().hidden_size == 32


def test_the_backbones_name_is_kept(tmp_path):
    text_config = LlamaConfig(vocab_size=64)
    text_config._name_or_path = "org/base"
    GenARMConfig(text_config=text_config).save_pretrained(tmp_path)
    assert GenARMConfig.from_pretrained(tmp_path).text_config._name_or_path == "org/base"


def test_a_dictionary_makes_the_backbones_configuration():
    fields = {"model_type": "gpt2", "n_embd": 16}
    config = GenARMConfig(text_config=fields)
    assert config.text_config.hidden_size == 16
    assert fields == {"model_type": "gpt2", "n_embd": 16}


def test_there_is_no_default_backbone():
    assert GenARMConfig().text_config is None
    GenARMConfig().to_diff_dict()


@pytest.mark.parametrize("beta", [0, -0.1, math.nan, math.inf])
def test_beta_is_positive(beta):
    with pytest.raises(ValueError, match="`beta` must be a positive number"):
        GenARMConfig(beta=beta)


@pytest.mark.parametrize("alpha", [math.nan, -math.inf])
def test_alpha_is_finite(alpha):
    with pytest.raises(ValueError, match="`alpha` must be a finite number"):
        GenARMConfig(alpha=alpha)


@pytest.mark.parametrize("template", ["no field", "{prompt} {system}", "{prompt} {", "{0}", "{{prompt}}"])
def test_templates_take_the_prompt_and_nothing_else(template):
    with pytest.raises(ValueError, match=r"`prompt_template` must be a format string with '{prompt}'"):
        GenARMConfig(prompt_template=template)


def test_a_text_config_names_its_model_type():
    with pytest.raises(ValueError, match=r"`text_config` must name its `model_type` .* got keys \['vocab_size'\]"):
        GenARMConfig(text_config={"vocab_size": 4})
