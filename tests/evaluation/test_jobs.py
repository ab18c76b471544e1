"""Data sets: the replies of `guided`, batches by length, and a record for what cannot be asked."""

import json
import shutil

import pytest
import torch

import genarm_hf
from genarm_hf import playground
from genarm_hf.evaluation import generate_dataset, guided, read
from genarm_hf.evaluation.jobs import identity
from genarm_hf.evaluation.runner import batch_seed

from ..conftest import tiny

SAMPLING = {"do_sample": True, "top_k": 0, "max_new_tokens": 6}
PROMPTS = playground.prompts(5, seed=1)


@pytest.fixture(scope="module")
def tokenizer():
    return playground.load_tokenizer()


@pytest.fixture(scope="module")
def base(tokenizer):
    return tiny(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def arm(tokenizer):
    return tiny(seed=1, vocab_size=len(tokenizer), max_position_embeddings=64)


def texts(lines):
    return [line["reply"] for line in lines]


def test_replies_are_those_of_the_guided_model_batched_by_length(base, arm, tokenizer, tmp_path):
    prompts = ["The", *PROMPTS[:1]]
    options = {"alpha": 0.7, "samples": 2, "seed": 3, **SAMPLING}
    assert generate_dataset(base, tokenizer, arm, prompts, tmp_path / "out.jsonl", **options)
    lines = read(tmp_path / "out.jsonl")
    system = guided(base, tokenizer, arm, alpha=0.7, **SAMPLING)
    wanted = [system(prompts[::-1], batch_seed(3, sample, [1, 0]))[::-1] for sample in range(2)]
    assert texts(lines) == [reply["reply"] for sample in wanted for reply in sample]
    assert [(line["id"], line["sample"]) for line in lines] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["settings"]["alpha"] == 0.7 and manifest["batch_tokens"] == 8192


def test_a_batch_holds_no_more_tokens_than_it_may(base, arm, tokenizer, tmp_path, monkeypatch):
    shapes, generate = [], genarm_hf.decoding.guided_model.GuidedModel.generate
    monkeypatch.setattr(
        genarm_hf.decoding.guided_model.GuidedModel,
        "generate",
        lambda self, **kwargs: shapes.append(tuple(kwargs["input_ids"].shape)) or generate(self, **kwargs),
    )
    options = {"num_beams": 2, "max_new_tokens": 6, "max_tokens_per_batch": 64}
    generate_dataset(base, tokenizer, arm, PROMPTS, tmp_path / "out.jsonl", **options)
    assert sum(rows for rows, _ in shapes) == len(PROMPTS) and len(shapes) > 1
    assert all(2 * rows * (width + 6) <= 64 or rows == 1 for rows, width in shapes)


def test_a_row_has_the_alpha_that_it_says(base, arm, tokenizer, tmp_path):
    rows = [
        {"prompt": PROMPTS[0], "alpha": 2},
        {"prompt": PROMPTS[1], "alpha": [0.5, "1.5"]},
        {"prompt": PROMPTS[2]},
        {"prompt": PROMPTS[3], "alpha": "strong"},
        {"prompt": PROMPTS[4], "alpha": [1, 2, 3]},
    ]
    generate_dataset(base, tokenizer, [arm, base], rows, tmp_path / "out.jsonl", alpha=[0.1, 0.2], max_new_tokens=6)
    lines = read(tmp_path / "out.jsonl")
    assert [line["alpha"] for line in lines] == [2.0, [0.5, 1.5], [0.1, 0.2], "strong", [1, 2, 3]]
    system = guided(base, tokenizer, [arm, base], max_new_tokens=6)
    for line, alpha in zip(lines[:3], ([2.0, 2.0], [0.5, 1.5], [0.1, 0.2]), strict=True):
        assert line["reply"] == system([line["prompt"]], 0, alpha=[alpha])[0]["reply"]
    assert "must be a finite number, got 'strong'" in lines[3]["error"]
    assert lines[4]["error"] == "`alpha` must be one number, or one for each of 2 reward models, got [1, 2, 3]"


def test_a_row_without_alpha_has_that_of_the_reward_model(base, arm, tokenizer, tmp_path):
    own = genarm_hf.AutoregressiveRewardModel.from_backbone(arm, alpha=0.25)
    rows = [{"prompt": PROMPTS[0], "alpha": 1.0}, {"prompt": PROMPTS[1], "alpha": None}]
    generate_dataset(base, tokenizer, own, rows, tmp_path / "out.jsonl", max_new_tokens=6)
    assert [line["alpha"] for line in read(tmp_path / "out.jsonl")] == [1.0, 0.25]


def test_a_prompt_that_no_model_has_positions_for_is_not_asked(base, arm, tokenizer, tmp_path):
    prompts = [" ".join(["The"] * count) for count in (2, 50, 54, 55, 56, 57, 58, 59, 60, 300)]
    fits = [len(tokenizer(prompt)["input_ids"]) + 6 <= 64 for prompt in prompts]
    generate_dataset(base, tokenizer, arm, prompts, tmp_path / "out.jsonl", max_new_tokens=6)
    lines = read(tmp_path / "out.jsonl")
    assert [line["reply"] is not None for line in lines] == fits and 2 <= sum(fits) <= 8
    assert [line["prompt"] for line in lines] == prompts
    said = "tokens, and reward_models[0] reads at most 64, with the 6 of `max_new_tokens`"
    assert lines[-1]["error"].startswith("the prompt has 30") and lines[-1]["error"].endswith(said)


def test_a_reward_models_own_template_counts(base, arm, tokenizer, tmp_path):
    templated = genarm_hf.AutoregressiveRewardModel.from_backbone(arm, prompt_template="The " * 70 + "{prompt}")
    generate_dataset(base, tokenizer, templated, PROMPTS[:1], tmp_path / "out.jsonl", max_new_tokens=6)
    assert "reward_models[0] reads at most 64" in read(tmp_path / "out.jsonl")[0]["error"]


def test_chat_templates(base, arm, tmp_path):
    chat = playground.load_tokenizer()
    chat.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('No system here') }}{% endif %}"
        "The {{ m['content'] }}{% endfor %}"
    )
    user = {"role": "user", "content": PROMPTS[0]}
    rows = [PROMPTS[0], [user], [{"role": "system", "content": "x"}, user]]
    generate_dataset(base, chat, arm, rows, tmp_path / "out.jsonl", max_new_tokens=6)
    generate_dataset(base, chat, arm, rows[:2], tmp_path / "plain.jsonl", max_new_tokens=6, chat_template=False)
    text, messages, refused = read(tmp_path / "out.jsonl")
    assert text["reply"] == messages["reply"] == read(tmp_path / "plain.jsonl")[1]["reply"]
    plain = guided(base, chat, arm, max_new_tokens=6)
    assert text["reply"] == plain([f"The {PROMPTS[0]}"], 0)[0]["reply"]
    assert read(tmp_path / "plain.jsonl")[0]["reply"] == plain([PROMPTS[0]], 0)[0]["reply"]
    assert refused["error"] == "No system here" and refused["prompt"] == rows[2]


def test_messages_need_a_chat_template(base, arm, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        generate_dataset(base, tokenizer, arm, [[{"role": "user", "content": "Hi"}]], tmp_path / "out.jsonl")


def test_samples_of_what_is_not_drawn_are_refused(base, arm, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="`samples` must be 1 where nothing is drawn, got 2"):
        generate_dataset(base, tokenizer, arm, PROMPTS, tmp_path / "out.jsonl", samples=2)
    assert not (tmp_path / "out.jsonl").exists()


def test_identity_is_that_of_the_content(arm, tokenizer, tmp_path):
    arm.save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "README.md").write_text("A card")
    one, two = (identity(str(tmp_path / name)) for name in ("one", "two"))
    assert one["name"] != two["name"] and one["content"] == two["content"]
    with torch.no_grad():
        arm.get_output_embeddings().weight[0, 0] += 1
        arm.save_pretrained(tmp_path / "two")
        arm.get_output_embeddings().weight[0, 0] -= 1
    assert identity(str(tmp_path / "two"))["content"] != one["content"]


def test_identity_of_a_large_file_reads_parts_all_over_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    found = set()
    for place in range(0, 2**21, 2**18):
        content = bytearray(2**21)
        content[place : place + 2**15] = b"\x01" * 2**15
        (tmp_path / "model.safetensors").write_bytes(content)
        found.add(identity(str(tmp_path))["content"])
    assert len(found) == 8
