"""The committed base model: small, bfloat16 on disk, float32 in use, and as good as the generator."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from genarm_hf.playground import BASE_DIRECTORY, load_base, load_tokenizer, pretrain


@pytest.fixture(scope="module")
def base():
    return load_base()


def test_file_is_small_and_bfloat16():
    path = BASE_DIRECTORY / "model.safetensors"
    assert path.stat().st_size <= 6_000_000
    with safe_open(path, "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118 (not a dict)


def test_plain_auto_classes_load_it_in_float32(base):
    model = AutoModelForCausalLM.from_pretrained(BASE_DIRECTORY)
    assert model.dtype == base.dtype == torch.float32
    assert load_base(torch.bfloat16).dtype == torch.bfloat16
    assert not base.training
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(BASE_DIRECTORY))
    assert 1e6 <= base.num_parameters() <= 3e6


def test_perplexity_is_within_5_percent_of_the_generator_on_held_out_text(base):
    fit = pretrain.evaluate(base, load_tokenizer(), n=256)
    assert 0.99 <= fit.ratio <= 1.05


def test_pretraining_command_learns_and_is_deterministic(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrain, "evaluate", lambda *_: pretrain.Fit(1.1, 1.0))
    arguments = ["--steps", "2", "--batch-size", "4", "--threads", str(torch.get_num_threads())]
    assert pretrain.main([*arguments, "--output", str(tmp_path / "a")]) == 0
    assert pretrain.main([*arguments, "--output", str(tmp_path / "b"), "--save-every", "1"]) == 0
    assert "ratio 1.1000" in capsys.readouterr().out
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_rebuilding_writes_the_committed_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "evaluate", lambda *_: None)
    tokenizer = load_tokenizer()
    pretrain.save(pretrain.build_model(tokenizer), tokenizer, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.to_diff_dict() == load_base().config.to_diff_dict()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config == load_base().generation_config


def test_labels_cover_reply_and_end_only():
    tokenizer = load_tokenizer()
    batch = pretrain.collate(
        [("User: Hello.", "Good luck with it."), ("User:", "Hello.")], tokenizer, replies_only=True
    )
    assert batch.labels[0].tolist() == [-100] * 4 + tokenizer("Good luck with it.")["input_ids"] + [2]
    assert batch.labels[1].tolist() == [-100] * 2 + tokenizer("Hello.")["input_ids"] + [2] + [-100] * 5


def test_sizes():
    tokenizer = load_tokenizer()
    counts = {name: pretrain.build_model(tokenizer, size).num_parameters() for name, size in pretrain.SIZES.items()}
    assert counts["base"] == load_base().num_parameters()
    assert 0.2e6 <= counts["weak"] <= 0.4e6 and 6e6 <= counts["strong"] <= 12e6


def test_other_sizes_need_a_place_of_their_own(capsys):
    with pytest.raises(SystemExit):
        pretrain.main(["--size", "weak"])
    assert "--size weak needs --output" in capsys.readouterr().err
