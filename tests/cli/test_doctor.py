"""`genarm-hf doctor` on tiny models: what it finds, and that it says all of it."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache

from genarm_hf import AutoregressiveRewardModel
from genarm_hf.cli import doctor, main
from genarm_hf.cli.outline import open_base, open_reward_model

from ..conftest import tiny
from .conftest import WORDS, build_tokenizer


@pytest.fixture
def ask(base_dir, capsys, monkeypatch):
    """Runs `doctor`; gives its exit status and what it printed, on lines of any length."""
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*arms, base=base_dir, options=()):
        named = [part for arm in arms for part in ("--reward-model", str(arm))]
        status = main(["doctor", "--model", str(base), *named, *options])
        return status, capsys.readouterr().out

    return run


def saved(folder, kind="llama", words=WORDS, **changes):
    tiny(kind, **changes).save_pretrained(folder)
    build_tokenizer(words).save_pretrained(folder)
    return folder


def test_a_pair_that_fits_ends_with_what_to_type(ask, base_dir, arm_dir, capsys):
    status, out = ask(arm_dir, options=["--alpha", "0.5"])
    assert status == 0 and "PROBLEM" not in out
    command = next(line for line in out.splitlines() if line.startswith("  genarm-hf generate"))
    assert command.split() == (
        [*f"genarm-hf generate --model {base_dir} --reward-model {arm_dir} --alpha 0.5".split(), '"Hello"']
    )
    assert "Fast path of" in out and "none: passes of its own" in out and "served as GenARMForCausalLM" in out


def test_what_it_says_to_type_runs(ask, arm_dir, lora_dir):
    _, out = ask(arm_dir, lora_dir, options=["--alpha", "0.5", "1", "--max-length", "20"])
    code = "\n".join(line.strip() for line in out.split("They fit")[1].splitlines()[4:])
    assert "base_model=model" in code and "alpha=[0.5, 1]" in code
    names: dict = {}
    exec(code.replace("Hello", "w5 w6").replace("alpha=", "max_new_tokens=3, alpha="), names)
    assert len(names["arms"]) == 2


def test_lora_on_the_base_goes_in_one_pass(ask, lora_dir):
    status, out = ask(lora_dir)
    assert status == 0
    assert "one pass with the base" in out and "served as GenARMSharedForCausalLM" in out


def test_a_small_reward_model_drafts(ask, arm_dir, tmp_path):
    large = saved(tmp_path / "large", hidden_size=128, intermediate_size=256)
    status, out = ask(arm_dir, base=large)
    assert status == 0 and "times smaller than the base" in out and "`assistant_model=arm`" in out


def test_every_problem_is_said(ask, tmp_path, arm_dir):
    other = saved(tmp_path / "other", words=[*WORDS[:3], *reversed(WORDS[3:])])
    cut = shutil.copytree(arm_dir, tmp_path / "cut")
    weights = cut / "model.safetensors"
    short = saved(tmp_path / "short", max_position_embeddings=16)
    status, out = ask(other, short, options=["--max-length", "100"])
    problems = [line for line in out.splitlines() if line.startswith("PROBLEM")]
    assert status == 1 and len(problems) == 2 and out.endswith("They do not fit.\n")
    assert "has another vocabulary than the base: 44 of 48 shared ids" in problems[0]
    assert "`--max-length` is 100" in problems[1] and "was made for 16 tokens" in problems[1]
    weights.write_bytes(weights.read_bytes()[:1000])
    status, out = ask(cut, tmp_path / "absent", options=[])
    problems = [line for line in out.splitlines() if line.startswith("PROBLEM")]
    assert status == 1 and len(problems) == 2
    assert "could not be read" in problems[0] and "absent" in problems[1]


def test_what_is_no_causal_lm_is_a_problem(ask, tmp_path, base_dir):
    folder = shutil.copytree(base_dir, tmp_path / "classifier")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    status, out = ask(folder)
    assert status == 1 and "is a LlamaForSequenceClassification, not a causal LM" in out
    status, out = ask(base_dir, base=tmp_path / "nothing")
    assert status == 1 and "nothing" in out


def test_a_reward_model_is_no_base(ask, arm_dir, lora_dir):
    assert "is a reward model. Name the model that shall be guided" in ask(arm_dir, base=arm_dir)[1]
    assert "is an adapter. Merge it into its base" in ask(arm_dir, base=lora_dir)[1]


def test_an_adapter_of_another_base_brings_it_along(ask, tmp_path, base_dir, lora_dir):
    twin = shutil.copytree(base_dir, tmp_path / "twin")
    status, out = ask(lora_dir, base=twin)
    assert status == 0 and "which is loaded beside the base" in out and "not served: " in out
    arm, base = open_reward_model(str(lora_dir), open_base(str(twin))), open_base(str(base_dir))
    assert arm.size > base.size


def test_an_adapter_that_does_not_fit_its_base(ask, tmp_path, lora_dir, base_dir):
    other = saved(tmp_path / "wide", intermediate_size=48, hidden_size=64)
    folder = shutil.copytree(lora_dir, tmp_path / "misfit")
    fields = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(other)}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    status, out = ask(folder, base=other)
    assert status == 1 and "does not fit its base: 8 tensors are of other shapes" in out


def test_an_adapter_that_brings_a_head_of_its_own(ask, tmp_path, base_dir):
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    adapter = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    AutoregressiveRewardModel.from_backbone(get_peft_model(base, adapter)).save_pretrained(tmp_path / "head")
    status, out = ask(tmp_path / "head")
    assert status == 0 and "not one pass: its file replaces the base's lm_head.weight" in out
    assert "not served: The adapter" in out


@pytest.mark.parametrize("name", ["base_dir", "arm_dir", "lora_dir"])
def test_outlines_have_the_numbers_of_the_models_themselves(name, base_dir, request):
    folder = request.getfixturevalue(name)
    outline = open_base(str(folder)) if name == "base_dir" else open_reward_model(str(folder), open_base(str(base_dir)))
    load = AutoModelForCausalLM if name == "base_dir" else AutoregressiveRewardModel
    model = load.from_pretrained(folder)
    assert outline.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.is_meta for parameter in outline.model.parameters())
    cache = DynamicCache()
    inner = getattr(model, "causal_lm", model)
    inner(input_ids=torch.ones(3, 7, dtype=torch.long), past_key_values=cache)
    assert outline.cache_size(3, 7) == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_a_window_bounds_the_cache(tmp_path):
    outline = open_base(str(saved(tmp_path / "mistral", "mistral")))
    assert outline.cache_size(1, 100) == outline.cache_size(1, 200)


def test_a_quantised_base_has_no_one_pass(base_dir, lora_dir):
    base = open_base(str(base_dir))
    arm = open_reward_model(str(lora_dir), base)
    base.model.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert "the base is quantised" in doctor.fast_path(base, arm)


def test_too_little_memory_is_said(ask, arm_dir, monkeypatch):
    monkeypatch.setattr("genarm_hf.cli.env.free_memory", lambda: {"cpu": 10_000, "cuda:0": 10**12})
    status, out = ask(arm_dir)
    assert status == 0 and "Free here: cpu 10 kB (too little), cuda:0 1 TB\n" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "`--reward-model` is missing"),
        (["--reward-model", "a", "--alpha", "1", "2"], "`--alpha` must be one number, or one for each"),
        (["--reward-model", "a", "--alpha", "inf"], "`--alpha` must be finite"),
        (["--reward-model", "a", "--max-length", "0"], "`--max-length` must be at least 1, got 0"),
        (["--reward-model", "a", "--batch-size", "-1"], "`--batch-size` must be at least 1, got -1"),
    ],
)
def test_bad_arguments_have_status_2(capsys, options, said):
    assert main(["doctor", "--model", "m", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("number", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (6_740_000_000, "6.74 GB")])
def test_sizes(number, said):
    assert doctor._bytes(number) == said


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"hidden_size": "wide"}, {"vocab_size": -1}])
def test_a_configuration_that_describes_no_model_is_a_finding(ask, base_dir, arm_dir, tmp_path, change):
    copy = shutil.copytree(base_dir, tmp_path / "broken")
    fields = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(fields | change))
    for options in ({"base": copy, "arms": (arm_dir,)}, {"base": base_dir, "arms": (copy,)}):
        status, out = ask(*options["arms"], base=options["base"])
        assert status == 1 and out.count("PROBLEM") == 1 and str(copy) in out


def test_a_length_that_no_machine_has(ask, arm_dir):
    status, out = ask(arm_dir, options=["--batch-size", str(2**62)])
    assert status in (0, 1) and "Memory" in out
