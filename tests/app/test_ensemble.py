"""What may be loaded, and what is said of the rest."""

import copy

import pytest

from genarm_hf.app.ensemble import load, told_apart

from ..cli.conftest import WORDS, build_tokenizer
from ..conftest import tiny


def test_objectives_and_starting_alphas_are_the_reward_models_own(tiny_ensemble):
    assert tiny_ensemble.objectives == ("helpful", "brief")
    assert tiny_ensemble.alphas == (0.25, 1.0)
    assert not tiny_ensemble.quick


def test_an_adapter_of_the_base_sits_on_its_weights(tiny_ensemble):
    shared = tiny_ensemble.arms[1].causal_lm.get_input_embeddings().weight
    assert shared is tiny_ensemble.base.get_input_embeddings().weight


def test_visitors_share_the_models(tiny_ensemble):
    assert copy.deepcopy({"a": tiny_ensemble})["a"] is tiny_ensemble


def test_names_are_told_apart():
    assert told_apart(["a", "reward", "a", "reward", "b"]) == ["a 1", "reward 1", "a 2", "reward 2", "b"]


@pytest.mark.parametrize(
    ("base", "arms", "said"),
    [
        ("", ["x"], "Name a base and at least one reward model"),
        ("x", [" ", ""], "Name a base and at least one reward model"),
        ("x", ["a"] * 5, "At most 4 reward models"),
        ("./nowhere", ["a"], "`Base`: there is no folder './nowhere'"),
    ],
)
def test_what_cannot_be_loaded_is_said(base, arms, said):
    with pytest.raises(ValueError, match=said):
        load(base, arms)


def test_an_unknown_reward_model_is_named(base_dir):
    with pytest.raises(ValueError, match=r"`Reward model`: there is no folder '/no/arm'"):
        load(str(base_dir), ["/no/arm"], "float32", "cpu")


def test_other_vocabularies_are_refused_before_anything_is_written(base_dir, tmp_path):
    tiny("gpt2", seed=3).save_pretrained(tmp_path)
    build_tokenizer([*WORDS[:3], *reversed(WORDS[3:])]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has another vocabulary than"):
        load(str(base_dir), [str(tmp_path)], "float32", "cpu")
