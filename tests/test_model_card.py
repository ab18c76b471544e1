"""Model cards: metadata the hub takes, a snippet that runs, and text of people's own that stays."""

import re

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel, GenARMConfig
from genarm_hf.model_card import is_generated, write_model_card
from tests.conftest import tiny
from tests.reward_models import PEFT_WARNINGS, WORDS, lora, word_tokenizer

pytestmark = PEFT_WARNINGS


TOKENIZER = word_tokenizer(words={"Hello" if word == "w9" else word: index for word, index in WORDS.items()})


def card(directory):
    return ModelCard.load(directory / "README.md")


@pytest.fixture
def base(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base")


def named(base, name):
    base.config._name_or_path = name
    return base


def test_metadata_of_full_weights(tmp_path):
    arm = AutoregressiveRewardModel.from_backbone(named(tiny("llama"), "org/base"), beta=0.1, objective="helpful")
    arm.save_pretrained(tmp_path)
    data = card(tmp_path).data.to_dict()
    assert data["base_model"] == "org/base" and data["base_model_relation"] == "finetune"
    assert data["library_name"] == "genarm-hf" and data["genarm"] == {"objective": "helpful", "beta": 0.1}
    assert {"genarm", "reward-model", "helpful", "arxiv:2410.08193"} <= set(data["tags"])


def test_metadata_of_an_adapter(tmp_path):
    arm = AutoregressiveRewardModel.from_backbone(lora(named(tiny("llama"), "org/base")), alpha=2)
    arm.save_pretrained(tmp_path)
    data = card(tmp_path).data.to_dict()
    assert data["base_model"] == "org/base" and data["base_model_relation"] == "adapter"
    assert data["library_name"] == "genarm-hf" and data["genarm"] == {"alpha": 2}
    assert "LORA adapter of `org/base`" in card(tmp_path).text


@pytest.mark.parametrize("path", ["/home/me/base", "./base", "~/base", "a/b/c"])
def test_directories_are_no_metadata(path, tmp_path):
    AutoregressiveRewardModel.from_backbone(named(tiny("llama"), path)).save_pretrained(tmp_path)
    assert "base_model" not in card(tmp_path).data.to_dict()


@pytest.mark.parametrize("kind", ["full", "lora", "full of an unknown base"])
def test_the_snippet_runs(kind, base, tmp_path, capsys):
    backbone = lora(base) if kind == "lora" else base if kind == "full" else named(base, "")
    arm = AutoregressiveRewardModel.from_backbone(backbone, alpha=0.5)
    arm.save_pretrained(tmp_path / "arm", tokenizer=TOKENIZER)
    (snippet,) = re.findall(r"```python\n(.*?)```", card(tmp_path / "arm").text, re.DOTALL)
    exec(snippet, {})
    assert len(capsys.readouterr().out.split()) > 5


def test_a_template_does_not_break_the_table(base, tmp_path):
    AutoregressiveRewardModel.from_backbone(base, prompt_template="<|user|>`{prompt}`\n").save_pretrained(tmp_path)
    (row,) = (line for line in card(tmp_path).text.splitlines() if line.startswith("| prompt template"))
    assert row == r"| prompt template | `\"<\|user\|>'{prompt}'\n\"` |".replace(r"\"", "'")


def test_an_untouched_card_is_written_anew(base, tmp_path):
    for objective in ("helpful", "harmless"):
        AutoregressiveRewardModel.from_backbone(base, objective=objective).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "harmless" in text and "helpful" not in text and is_generated(text)


@pytest.mark.parametrize("adapted", [False, True])
def test_text_of_people_stays(adapted, base, tmp_path):
    (tmp_path / "arm").mkdir()
    theirs = "---\nlicense: mit\ntags:\n- mine\nlibrary_name: other\n---\n\n# Mine\n\nWritten by *hand*.\n"
    (tmp_path / "arm" / "README.md").write_text(theirs)
    backbone = lora(base) if adapted else base
    arm = AutoregressiveRewardModel.from_backbone(backbone, objective="helpful")
    arm.save_pretrained(tmp_path / "arm")
    assert card(tmp_path / "arm").text.strip() == "# Mine\n\nWritten by *hand*."
    data = card(tmp_path / "arm").data.to_dict()
    assert data["license"] == "mit" and data["library_name"] == "genarm-hf"
    assert data["tags"][0] == "mine" and "helpful" in data["tags"]
    once = (tmp_path / "arm" / "README.md").read_text()
    arm.save_pretrained(tmp_path / "arm")
    assert (tmp_path / "arm" / "README.md").read_text() == once


def test_an_edited_card_of_ours_stays(base, tmp_path):
    arm = AutoregressiveRewardModel.from_backbone(base, objective="helpful")
    arm.save_pretrained(tmp_path / "arm")
    path = tmp_path / "arm" / "README.md"
    path.write_text(path.read_text().replace("## Use", "## Limits\n\nNone known.\n\n## Use"))
    arm.config.beta = 0.3
    arm.save_pretrained(tmp_path / "arm")
    assert "None known." in path.read_text() and card(tmp_path / "arm").data.to_dict()["genarm"]["beta"] == 0.3


def test_metadata_that_cannot_be_read_stays(base, tmp_path):
    (tmp_path / "README.md").write_text("---\n[: {\n---\nText.\n")
    write_model_card(GenARMConfig(text_config=base.config), tmp_path)
    assert (tmp_path / "README.md").read_text() == "---\n[: {\n---\nText.\n"


def test_no_card_where_none_is_wanted(base, tmp_path):
    AutoregressiveRewardModel.from_backbone(lora(base)).save_pretrained(tmp_path / "arm", model_card=False)
    assert not (tmp_path / "arm" / "README.md").exists()
