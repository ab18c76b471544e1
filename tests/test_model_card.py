"""Model cards: metadata the hub takes, a snippet that runs, and text of people's own that stays."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from genarm_hf import AutoregressiveRewardModel, GenARMConfig
from genarm_hf.model_card import RECORD, TrainingRecord, is_generated, write_model_card
from genarm_hf.training.metrics import preference_summary
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


# ---------------------------------------------------------------------- the record of the training

HELD_OUT = preference_summary([-2.0, -5.0, -1.0], [-4.0, -4.0, -9.0], [3, 8, 5], [5, 6, 5], beta=0.5).to_dict()
TRAINING = TrainingRecord(
    command="genarm-hf train --data org/pairs",
    data="org/pairs",
    fingerprint="0123456789abcdef" * 4,
    pairs=1200,
    hyperparameters={"beta": 0.5, "learning_rate": 5e-4, "max_length": None, "target_modules": ["k_proj", "q_proj"]},
    versions={"torch": "2.13.0"},
    seconds=3725.0,
    held_out=HELD_OUT,
)


def saved(base, directory, training=TRAINING, **fields):
    """A reward model and the record of its training, as the trainer leaves them."""
    arm = AutoregressiveRewardModel.from_backbone(base, objective="helpful", **fields)
    arm.save_pretrained(directory)
    write_model_card(arm.config, directory, training=training)
    return arm


def rows(directory) -> dict[str, list[str]]:
    """Cells of all tables by what stands in the first."""
    lines = (line.strip("| ").split(" | ") for line in card(directory).text.splitlines() if line.startswith("| "))
    return {first: rest for first, *rest in lines}


def test_the_training_is_told(base, tmp_path):
    saved(base, tmp_path / "arm")
    text, found = card(tmp_path / "arm").text, rows(tmp_path / "arm")
    assert "## Training\n\n```bash\ngenarm-hf train --data org/pairs\n```" in text
    assert found["data"] == ["`org/pairs`"] and found["pairs"] == ["1200"] and found["time"] == ["1 h 2 min"]
    assert found["fingerprint of the pairs (sha256)"] == ["`0123456789abcdef`"]
    assert found["hyperparameters"] == ["beta `0.5`, learning_rate `0.0005`, target_modules `k_proj, q_proj`"]
    assert found["versions"] == ["torch `2.13.0`"]
    assert is_generated((tmp_path / "arm" / "README.md").read_text())


def test_held_out_preferences_are_told(base, tmp_path):
    saved(base, tmp_path / "arm")
    found = rows(tmp_path / "arm")
    assert found["accuracy"] == ["66.7 %", "20.8 to 93.9 %", "3"]
    assert found["where the chosen response is longer"][0] == "0.0 %"
    assert found["for comparison: always prefer the longer"][0] == "50.0 %"
    assert found["expected calibration error"][0] == f"{HELD_OUT['calibration']['error']:.3f}"
    assert found["correlation of reward and length (Pearson)"][0] == f"{HELD_OUT['length_correlation']:+.3f}"
    assert "On 3 pairs of `org/pairs`" in card(tmp_path / "arm").text


def test_what_is_undefined_is_said_so(base, tmp_path):
    held_out = preference_summary([-1.0], [-2.0], [3], [3]).to_dict()
    saved(base, tmp_path / "arm", replace(TRAINING, held_out=held_out))
    found = rows(tmp_path / "arm")
    assert "expected calibration error" not in found
    assert found["where the chosen response is longer"][0] == "no such pairs"
    assert found["correlation of reward and length (Pearson)"][0].startswith("undefined")


def test_results_are_metadata_of_the_hub(base, tmp_path):
    saved(base, tmp_path / "arm")
    data = card(tmp_path / "arm").data
    assert data.datasets == ["org/pairs"] and data.model_name == "arm"
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert values["accuracy"] == 0.6667
    assert values["length_correlation"] == round(HELD_OUT["length_correlation"], 4)
    assert {(result.dataset_type, result.dataset_name) for result in data.eval_results} == {("org/pairs", "org/pairs")}


def test_files_are_named_without_their_folders(base, tmp_path):
    saved(base, tmp_path / "arm", replace(TRAINING, data="/home/me/pairs.csv", command=None))
    data = card(tmp_path / "arm").data
    assert "/home/me" not in (tmp_path / "arm" / "README.md").read_text()
    assert data.datasets is None and data.eval_results[0].dataset_name == "pairs.csv"


def test_a_card_without_a_record_tells_of_no_training(base, tmp_path):
    AutoregressiveRewardModel.from_backbone(base).save_pretrained(tmp_path / "arm")
    assert "## Training" not in card(tmp_path / "arm").text and not (tmp_path / "arm" / RECORD).exists()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_record_survives_saving_again(kind, base, tmp_path):
    saved(lora(base) if kind == "lora" else base, tmp_path / "arm")
    before = (tmp_path / "arm" / RECORD).read_text()
    for target in ("arm", "elsewhere"):
        arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "arm")
        arm.config.objective = target
        arm.save_pretrained(tmp_path / target)
        assert (tmp_path / target / RECORD).read_text() == before
        assert "## Held-out preferences" in card(tmp_path / target).text and target in card(tmp_path / target).text


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_other_weights_do_not_get_the_record(kind, base, tmp_path):
    backbone = lora(base) if kind == "lora" else base
    saved(backbone, tmp_path / "arm")
    with torch.no_grad():
        trained = [p for name, p in backbone.named_parameters() if kind == "full" or "lora" in name]
        trained[-1].add_(0.125)
    AutoregressiveRewardModel.from_backbone(backbone).save_pretrained(tmp_path / "arm")
    assert "## Training" not in card(tmp_path / "arm").text
    assert card(tmp_path / "arm").data.eval_results is None


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"weights": 3}', "unknown field", "half a result"])
def test_a_damaged_record_does_not_stop_a_save(damage, base, tmp_path):
    arm = saved(base, tmp_path / "arm")
    path = tmp_path / "arm" / RECORD
    found = json.loads(path.read_text())
    if damage == "unknown field":
        damage = json.dumps(found | {"mood": "good"})
    elif damage == "half a result":
        damage = json.dumps(found | {"held_out": {"accuracy": {}}})
    path.write_text(damage)
    arm.save_pretrained(tmp_path / "arm")
    assert "## Training" not in card(tmp_path / "arm").text and path.read_text() == damage


def test_an_edited_card_gets_the_results_as_metadata_only(base, tmp_path):
    arm = saved(base, tmp_path / "arm")
    path = tmp_path / "arm" / "README.md"
    theirs = {"type": "accuracy", "value": 0.9, "name": "mine"}
    task, dataset = {"type": "text-generation", "name": "Mine"}, {"type": "org/other", "name": "Other"}
    index = [{"name": "their name", "results": [{"task": task, "dataset": dataset, "metrics": [theirs]}]}]
    path.write_text(f"---\nmodel-index: {json.dumps(index)}\n---\n\n# Mine\n")
    for accuracy in (0.25, 0.5):
        held_out = HELD_OUT | {"accuracy": HELD_OUT["accuracy"] | {"value": accuracy}}
        write_model_card(arm.config, tmp_path / "arm", training=replace(TRAINING, held_out=held_out))
    data = card(tmp_path / "arm").data
    assert card(tmp_path / "arm").text.strip() == "# Mine" and data.model_name == "their name"
    values = [(one.metric_name, one.metric_value) for one in data.eval_results if one.metric_type == "accuracy"]
    assert values == [("mine", 0.9), ("held-out pair accuracy", 0.5)]


def test_a_record_moves_with_its_folder(base, tmp_path):
    saved(base, tmp_path / "arm")
    shutil.move(tmp_path / "arm", tmp_path / "moved")
    arm = AutoregressiveRewardModel.from_pretrained(tmp_path / "moved")
    arm.save_pretrained(tmp_path / "moved")
    assert "## Training" in card(tmp_path / "moved").text
