"""`genarm-hf compose` on tiny models: what it writes, and what it refuses."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from genarm_hf.cli import main

from ..conftest import tiny
from .conftest import WORDS, build_tokenizer


@pytest.fixture
def compose(base_dir, arm_dir, tmp_path, capsys):
    """Runs `compose` with the usual models; gives the folder, or what was said where it fails."""

    def run(*argv: str, base=base_dir, arms=(arm_dir,), output=tmp_path / "guided", status: int = 0):
        models = ["--model", str(base), *(part for arm in arms for part in ("--reward-model", str(arm)))]
        assert main(["compose", *models, "--output", str(output), *argv]) == status
        return capsys.readouterr().err if status else output

    return run


def fields(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def saved(folder, kind: str = "llama", words=WORDS, **changes):
    tiny(kind, **changes).save_pretrained(folder)
    build_tokenizer(words).save_pretrained(folder)
    return folder


def test_names_the_models_and_copies_no_weights(compose, base_dir, arm_dir):
    folder = compose()
    found = fields(folder)
    assert found["architectures"] == ["GenARMForCausalLM"]
    assert found["genarm_base"] == {"model": str(base_dir), "revision": None, "architectures": ["LlamaForCausalLM"]}
    assert found["genarm_arms"] == [{"model": str(arm_dir), "revision": None, "alpha": 0.25}]
    assert found["hidden_size"] == fields(base_dir)["hidden_size"]
    written = {path.name for path in folder.iterdir()}
    assert written == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


def test_its_tokenizer_is_the_bases(compose, base_dir):
    text = "w5 w6 w7"
    assert AutoTokenizer.from_pretrained(compose())(text) == AutoTokenizer.from_pretrained(base_dir)(text)


def test_its_generation_config_guides_the_base_in_transformers(compose, base_dir, arm_dir):
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    config = GenerationConfig.from_pretrained(compose())
    assert config.eos_token_id == model.generation_config.eos_token_id
    ids = torch.tensor([[5, 6, 7]])
    expected = model.generate(ids, reward_models=[str(arm_dir)], alpha=0.25, max_new_tokens=8)
    assert torch.equal(model.generate(ids, generation_config=config, max_new_tokens=8), expected)
    assert not torch.equal(expected, model.generate(ids, max_new_tokens=8))


def test_nothing_loads_it_as_the_base_alone(compose):
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(compose())


@pytest.mark.parametrize(
    ("alpha", "expected"), [([], [0.25, 1.0]), (["0.5"], [0.5, 0.5]), (["0.1", "-0.2"], [0.1, -0.2])]
)
def test_alphas_are_those_asked_for_else_the_reward_models_own(compose, base_dir, arm_dir, alpha, expected):
    folder = compose(*(["--alpha", *alpha] if alpha else []), arms=(arm_dir, base_dir))
    assert [arm["alpha"] for arm in fields(folder)["genarm_arms"]] == expected


def test_places_do_not_depend_on_the_working_directory(compose, base_dir, arm_dir, monkeypatch):
    monkeypatch.chdir(base_dir.parent)
    assert fields(compose(base=base_dir.name))["genarm_base"]["model"] == str(base_dir)


def test_says_what_to_do_next(base_dir, arm_dir, tmp_path, capsys):
    argv = ["compose", "--model", str(base_dir), "--reward-model", str(arm_dir), "--output", str(tmp_path / "guided")]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert f"genarm-hf serve {tmp_path / 'guided'}" in out and "(helpful) at alpha 0.25" in out


def test_replaces_a_composition_and_nothing_else(compose, tmp_path):
    compose("--alpha", "1")
    assert fields(compose("--alpha", "2"))["genarm_arms"][0]["alpha"] == 2.0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    assert "holds something else" in compose(output=tmp_path / "other", status=2)
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_leaves_nothing_behind_where_it_fails(compose, tmp_path):
    bare = tmp_path / "bare"
    tiny("llama").save_pretrained(bare)
    assert "no tokenizer" in compose(base=bare, status=2)
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--alpha", "1", "2"], "one for each of the 1 reward models"),
        (["--alpha", "nan"], "finite"),
    ],
)
def test_refuses_bad_alphas(compose, argv, reason):
    assert reason in compose(*argv, status=2)


def test_refuses_models_that_are_not_there(compose, tmp_path):
    assert "`--reward-model`: there is no folder" in compose(arms=(tmp_path / "nowhere",), status=2)
    assert "`--model`: there is no folder" in compose(base=tmp_path / "nowhere", status=2)
    assert "`--reward-model` is missing" in compose(arms=(), status=2)


def test_adapters_of_the_base_share_its_weights(compose, lora_dir, base_dir):
    found = fields(compose(arms=(lora_dir, lora_dir)))
    assert found["architectures"] == ["GenARMSharedForCausalLM"]
    assert found["genarm_arms"] == [{"model": str(lora_dir), "revision": None, "base": str(base_dir), "alpha": 1.0}] * 2


def test_says_how_adapters_run(base_dir, lora_dir, tmp_path, capsys):
    argv = ["compose", "--model", str(base_dir), "--reward-model", str(lora_dir), "--output", str(tmp_path / "guided")]
    assert main(argv) == 0
    assert "LoRA on its weights, which are held once" in capsys.readouterr().out


def test_refuses_adapters_beside_full_weights(compose, lora_dir, arm_dir):
    message = compose(arms=(lora_dir, arm_dir), status=2)
    assert "is a LoRA adapter" in message and "merge" in message


def test_refuses_a_reward_model_as_the_base(compose, arm_dir):
    assert "is a reward model" in compose(base=arm_dir, status=2)


def test_lists_the_architectures_it_supports(compose, tmp_path):
    message = compose(arms=(saved(tmp_path / "gemma", "gemma"),), status=2)
    assert "is a Gemma2ForCausalLM" in message and "LlamaForCausalLM" in message


def test_refuses_another_vocabulary(compose, tmp_path):
    shuffled = [*WORDS[:3], *reversed(WORDS[3:])]
    assert "another vocabulary" in compose(arms=(saved(tmp_path / "arm", words=shuffled),), status=2)
    assert "vocabulary of 400" in compose(
        arms=(_without_tokenizer(saved(tmp_path / "larger", vocab_size=400)),), status=2
    )


def test_refuses_a_quantised_reward_model(compose, tmp_path):
    arm = saved(tmp_path / "arm")
    config = fields(arm) | {"quantization_config": {"quant_method": "fp8"}}
    (arm / "config.json").write_text(json.dumps(config))
    assert "quantised" in compose(arms=(arm,), status=2)


def test_refuses_a_folder_without_safetensors(compose, tmp_path, base_dir):
    arm = shutil.copytree(base_dir, tmp_path / "arm")
    (arm / "model.safetensors").rename(arm / "pytorch_model.bin")
    assert "pickle" in compose(arms=(arm,), status=2)


def _without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return folder
