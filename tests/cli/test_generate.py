"""`genarm-hf generate` on tiny models: what it prints is what generate() gives."""

import io
import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel
from genarm_hf.cli import loading, main

from ..conftest import tiny
from .conftest import PROMPT, WORDS, build_tokenizer


@pytest.fixture
def command(base_dir, arm_dir, capsys):
    """Runs `generate` with the usual models and gives its output; `arms=` and `base=` name others."""

    def run(*argv: str, base=base_dir, arms=(arm_dir,), status: int = 0) -> str:
        models = ["--model", str(base), *(part for arm in arms for part in ("--reward-model", str(arm)))]
        assert main(["generate", *models, "--max-new-tokens", "8", "--device", "cpu", *argv]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def expected(base_dir, arms, alpha, **kwargs) -> str:
    tokenizer = build_tokenizer()
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    arms = [AutoregressiveRewardModel.from_pretrained(arm) for arm in arms]
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    ids = base.generate(**inputs, reward_models=arms, alpha=alpha, max_new_tokens=8, **kwargs)
    return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("options", [[], ["--num-beams", "3"]])
def test_prints_the_guided_text(command, base_dir, arm_dir, options):
    kwargs = {"num_beams": 3} if options else {}
    out = command("--alpha", "2", *options, PROMPT)
    assert out.strip() == expected(base_dir, [arm_dir], 2.0, **kwargs)


def test_two_reward_models_with_an_alpha_each(command, base_dir, arm_dir, lora_dir):
    out = command("--alpha", "1.5", "-0.5", PROMPT, arms=(arm_dir, lora_dir))
    assert out.strip() == expected(base_dir, [arm_dir, lora_dir], [1.5, -0.5])


def test_alpha_defaults_to_the_reward_models(command, base_dir, arm_dir):
    assert command(PROMPT).strip() == expected(base_dir, [arm_dir], 0.25)


def test_sampling_repeats_with_its_seed(command):
    sampled = {command("--alpha", "1", "--temperature", "3", "--seed", seed, PROMPT) for seed in "1122"}
    assert len(sampled) == 2


def test_temperature_zero_takes_the_likeliest(command, base_dir, arm_dir):
    out = command("--alpha", "1", "--temperature", "0", PROMPT)
    assert out.strip() == expected(base_dir, [arm_dir], 1.0, do_sample=False)


def test_top_p_samples(command):
    sampled = {command("--alpha", "0.1", "--top-p", "0.99", "--seed", seed, PROMPT) for seed in "12345"}
    assert len(sampled) > 1


def test_prompt_from_standard_input(command, base_dir, arm_dir, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT + "\n"))
    assert command("--alpha", "1", "-").strip() == expected(base_dir, [arm_dir], 1.0)


def test_compare_shows_the_base_beside(command, base_dir, arm_dir, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = command("--alpha", "2", "--compare", PROMPT).splitlines()
    assert re.fullmatch(r"base alone \(alpha 0\) +guided \(alpha 2\)", lines[0])
    assert re.split(r"  +", lines[1]) == [expected(base_dir, [arm_dir], 0.0), expected(base_dir, [arm_dir], 2.0)]


def test_rewards_of_every_token(command, base_dir, arm_dir):
    out = command("--alpha", "2", "--show-rewards", PROMPT)
    header, _, *rows = out.partition("\n\n")[2].splitlines()
    arm, tokenizer = AutoregressiveRewardModel.from_pretrained(arm_dir), build_tokenizer()
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    ids = base.generate(**inputs, reward_models=[arm], alpha=2.0, max_new_tokens=8)
    with torch.no_grad():
        direct = arm.token_rewards(ids)[0, 3:].tolist()
    assert header.split() == ["token", "log", "pi_1", "(helpful)"]
    assert [row.split()[0] for row in rows] == [*(repr(tokenizer.decode([index])) for index in ids[0, 3:]), "total"]
    assert [float(row.split()[-1]) for row in rows] == pytest.approx([*direct, sum(direct)], abs=2e-3)


def test_chat_template_is_used_unless_switched_off(command, base_dir, arm_dir, tmp_path):
    chatty = shutil.copytree(base_dir, tmp_path / "chatty")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "w9 w9 {{ messages[0]['content'] }} w9"
    tokenizer.save_pretrained(chatty)
    plain = command("--alpha", "1", "--no-chat-template", PROMPT, base=chatty)
    assert plain.strip() == expected(base_dir, [arm_dir], 1.0)
    assert command("--alpha", "1", PROMPT, base=chatty) == command("--alpha", "1", f"w9 w9 {PROMPT} w9")


def test_a_reward_models_own_prompt_template(command, base_dir, arm_dir, tmp_path):
    templated = shutil.copytree(arm_dir, tmp_path / "templated")
    config = json.loads((templated / "config.json").read_text())
    (templated / "config.json").write_text(json.dumps(config | {"prompt_template": "w20 w21 {prompt} w22"}))
    base, arm = AutoModelForCausalLM.from_pretrained(base_dir), AutoregressiveRewardModel.from_pretrained(arm_dir)
    tokenizer = build_tokenizer()
    own, other = (
        tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in (PROMPT, f"w20 w21 {PROMPT} w22")
    )
    ids = base.generate(**own, reward_models=[arm], alpha=3.0, reward_inputs=other, max_new_tokens=8)
    out = command("--alpha", "3", PROMPT, arms=(templated,))
    assert out.strip() == tokenizer.decode(ids[0, 3:], skip_special_tokens=True)


def test_an_adapter_of_the_base_shares_its_weights(base_dir, lora_dir):
    base, _ = loading.load_base(str(base_dir), "auto", "cpu")
    arm = loading.load_reward_model(str(lora_dir), base, str(base_dir), "auto")
    storage = {parameter.data_ptr() for parameter in base.parameters()}
    frozen = [p for name, p in arm.named_parameters() if "lora_" not in name]
    assert all(parameter.data_ptr() in storage for parameter in frozen)


def test_an_adapter_of_another_base_keeps_its_own(base_dir, lora_dir, tmp_path):
    elsewhere = shutil.copytree(base_dir, tmp_path / "copy")
    base, _ = loading.load_base(str(elsewhere), "auto", "cpu")
    arm = loading.load_reward_model(str(lora_dir), base, str(elsewhere), "auto")
    storage = {parameter.data_ptr() for parameter in base.parameters()}
    assert not any(parameter.data_ptr() in storage for parameter in arm.parameters())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--alpha", "1", "2", PROMPT], "`--alpha` must be one number, or one for each of the 1 reward models; got 2"),
        (["--alpha", "nan", PROMPT], "`--alpha` must be finite"),
        (["--alpha", "strong", PROMPT], "argument --alpha"),
        (["--temperature", "-1", PROMPT], "`--temperature` must be 0 or a positive number"),
        (["--top-p", "0", PROMPT], "`--top-p` must be above 0 and at most 1"),
        (["--num-beams", "0", PROMPT], "`--num-beams` must be at least 1"),
        (["--device", "abacus", PROMPT], "`--device` must name a device of this machine"),
        (["--dtype", "int3", PROMPT], "invalid choice: 'int3'"),
        ([" "], "The prompt is empty"),
    ],
)
def test_bad_options(command, argv, said):
    err = command(*argv, status=2)
    assert said in err
    assert err.count("\n") == 1


def test_missing_models(command, tmp_path, base_dir):
    nowhere = tmp_path / "nowhere"
    assert f"`--model`: there is no folder '{nowhere}'" in command(PROMPT, base=nowhere, status=2)
    assert f"`--reward-model`: there is no folder '{nowhere}'" in command(PROMPT, arms=(nowhere,), status=2)
    assert "`--model` 'no-such-model' could not be loaded" in command(PROMPT, base="no-such-model", status=2)


def test_empty_folder(command, tmp_path):
    assert f"`--reward-model` '{tmp_path}' could not be loaded" in command(PROMPT, arms=(tmp_path,), status=2)


@pytest.mark.parametrize("alpha", ["0", "1"])
def test_a_text_that_outgrows_the_bases_positions(command, tmp_path, alpha):
    """Learned positions end where their table ends; the last new token is not read."""
    tiny("gpt2", n_positions=8).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    err = command("--alpha", alpha, PROMPT, base=tmp_path, status=2)
    assert "The base reads at most 8 tokens" in err and "prompt (3) plus new tokens (8) are more" in err
    assert "prompt (20)" in command("--alpha", alpha, "--max-new-tokens", "1", "w5 " * 20, base=tmp_path, status=2)
    command("--alpha", alpha, "--max-new-tokens", "6", PROMPT, base=tmp_path)


@pytest.mark.parametrize("job", [False, True])
def test_a_wrong_reward_model_is_told_before_the_base_is_loaded(command, base_dir, tmp_path, monkeypatch, job):
    def load(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    shutil.copy(base_dir / "config.json", classifier := tmp_path / "config.json")
    classifier.write_text(classifier.read_text().replace("ForCausalLM", "ForSequenceClassification"))
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": PROMPT}))
    many = ["--input", str(tmp_path / "prompts.jsonl"), "--output", str(tmp_path / "replies.jsonl")]
    err = command(*(many if job else [PROMPT]), arms=(base_dir, tmp_path), status=2)
    assert "is a LlamaForSequenceClassification, not a causal LM" in err


def test_another_vocabulary_is_refused(command, arm_dir, tmp_path):
    foreign = shutil.copytree(arm_dir, tmp_path / "foreign")
    build_tokenizer([*WORDS[:3], *WORDS[:2:-1]]).save_pretrained(foreign)
    err = command("--alpha", "1", PROMPT, arms=(foreign,), status=2)
    assert "reward_models[0] has another vocabulary than the base" in err


def test_weights_that_are_no_numbers(command, tmp_path):
    broken = tiny("llama")
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    build_tokenizer().save_pretrained(tmp_path / "nan")
    err = command("--temperature", "1", PROMPT, base=tmp_path / "nan", status=2)
    assert "genarm-hf: the probabilities to sample from are no numbers" in err and "Traceback" not in err


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_seeds_that_are_none(command, seed):
    assert "`--seed` must be at least 0 and below 2**32" in command("--seed", seed, PROMPT, status=2)


@pytest.mark.parametrize("option", ["base", "arms"])
def test_a_configuration_that_describes_no_model(command, base_dir, tmp_path, option):
    """What the libraries underneath run into is told with the option and the folder that it comes from."""
    copy = shutil.copytree(base_dir, tmp_path / "model")
    fields = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(fields | {"num_attention_heads": 0}))
    err = command(PROMPT, **{option: copy if option == "base" else [copy]}, status=2)
    assert err.count("\n") == 1 and "could not be loaded" in err and str(copy) in err and "ZeroDivisionError" in err
