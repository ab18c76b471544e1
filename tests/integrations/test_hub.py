"""Uploading to and asking a hub that answers over HTTP, and misbehaves: `genarm-hf push`, `info`, and loading after."""

import hashlib
import json

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from genarm_hf import AutoregressiveRewardModel
from genarm_hf.cli import main
from genarm_hf.cli.serve import _find, _read
from genarm_hf.integrations.hub import describe, is_collection
from genarm_hf.model_card import TrainingRecord, write_model_card
from tests.conftest import prompts, tiny
from tests.hub_server import TOKEN, Hub, serve
from tests.reward_models import PEFT_WARNINGS, assert_same_state, lora, state_of, word_tokenizer

pytestmark = [
    PEFT_WARNINGS,
    # of the hub's client about the HTTP library underneath it, when it sends a file
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that this process asks, with a token and without waits before it asks again."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session, disable_progress_bars, enable_progress_bars

    served = Hub({}, root=tmp_path / "hub")
    with serve(served) as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # made when it is needed
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda _: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("COLUMNS", "1000")
        monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "1")
        disable_progress_bars()
        close_session()
        yield served
        close_session()
        enable_progress_bars()


@pytest.fixture
def arm(tmp_path):
    """A reward model with full weights on disk, trained as its record says."""
    model = AutoregressiveRewardModel.from_backbone(tiny("gpt2", seed=1), beta=0.05, alpha=0.25, objective="helpful")
    model.save_pretrained(tmp_path / "arm", tokenizer=word_tokenizer())
    record = TrainingRecord(command="genarm-hf train --data org/pairs", data="org/pairs", pairs=7)
    write_model_card(model.config, tmp_path / "arm", training=record)
    return tmp_path / "arm"


@pytest.fixture
def run(capsys):
    """Runs a command; gives its status, output and errors."""

    def command(*argv):
        status = main([str(part) for part in argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


def on_hub(hub, name):
    return sorted(path.name for path in hub.repos[name].iterdir())


# ---------------------------------------------------------------------- there and back


def test_a_reward_model_goes_there_and_back(hub, arm, run):
    (arm / "checkpoint-5").mkdir()
    for name in ("checkpoint-5/model.safetensors", "training_args.bin", "optimizer.pt"):
        (arm / name).write_bytes(b"stays at home")
    status, out, _ = run("push", arm, "org/helpful")
    assert status == 0 and f"{arm} is at " in out and hub.commit("org/helpful") in out
    assert on_hub(hub, "org/helpful") == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
    ]
    assert_same_state(AutoModel.from_pretrained("org/helpful"), state_of(AutoModel.from_pretrained(arm)))
    assert AutoTokenizer.from_pretrained("org/helpful")("w5")["input_ids"] == [1, 5]
    card = (hub.repos["org/helpful"] / "README.md").read_text()
    assert "AutoModel.from_pretrained('org/helpful')" in card and "genarm-hf train --data org/pairs" in card
    assert hub.commits["org/helpful"] == 1


def test_pushing_again_keeps_what_people_wrote_there(hub, arm, run):
    run("push", arm, "org/helpful")
    there = hub.repos["org/helpful"] / "README.md"
    there.write_text("---\nlicense: mit\n---\n# Ours\n\nHand-written.\n")
    hub.commits["org/helpful"] += 1
    assert run("push", arm, "org/helpful")[0] == 0
    assert (
        "Hand-written." in there.read_text()
        and "license: mit" in there.read_text()
        and "beta: 0.05" in there.read_text()
    )
    (arm / "README.md").write_text("# Mine\n\nWritten here.\n")
    assert run("push", arm, "org/helpful")[0] == 0 and "Written here." in there.read_text()


def test_a_private_branch(hub, arm, run):
    assert run("push", arm, "org/helpful", "--private", "--revision", "v2")[0] == 0
    assert hub.private == {"org/helpful"} and not on_hub(hub, "org/helpful")
    assert "model.safetensors" in on_hub(hub, "org/helpful@v2")
    assert AutoregressiveRewardModel.from_pretrained("org/helpful", revision="v2").config.objective == "helpful"
    assert run("push", arm, "org/helpful", "--revision", "v2")[0] == 0  # the branch is there


def test_an_adapter_needs_a_base_on_the_hub(hub, tmp_path, run):
    tiny("llama").save_pretrained(tmp_path / "base")
    hub.repos["org/base"] = tmp_path / "base"
    backbone = lora(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    AutoregressiveRewardModel.from_backbone(backbone, objective="brief").save_pretrained(tmp_path / "lora")
    status, _, err = run("push", tmp_path / "lora", "org/brief")
    assert (
        status == 2
        and "which nobody finds on the hub" in err
        and "--base-model" in err
        and "org/brief" not in hub.repos
    )
    assert run("push", tmp_path / "lora", "org/brief", "--base-model", "org/base")[0] == 0
    loaded = AutoModel.from_pretrained("org/brief")
    assert loaded.config.adapter == {"type": "LORA", "base_model_name_or_path": "org/base"}
    assert "base_model: org/base" in (hub.repos["org/brief"] / "README.md").read_text()
    assert str(tmp_path) in (tmp_path / "lora" / "adapter_config.json").read_text()  # here it stays as it was
    assert "base: org/base" in run("info", "org/brief")[1]


def test_a_composition_goes_there_and_back(hub, arm, tmp_path, run):
    base = tiny("llama")
    base.save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    hub.repos["org/base"] = tmp_path / "base"
    run("compose", "--model", tmp_path / "base", "--reward-model", arm, "--output", tmp_path / "local")
    status, _, err = run("push", tmp_path / "local", "org/guided")
    assert status == 2 and f"names folders of this machine: {tmp_path / 'base'}, {arm}" in err
    run("push", arm, "org/helpful")
    guided = tmp_path / "guided"
    status, _, err = run(
        "compose", "--model", "org/base", "--reward-model", "org/helpful", "--alpha", "0.5", "--output", guided
    )
    assert status == 0, err
    assert run("push", guided, "org/guided")[0] == 0
    card = (hub.repos["org/guided"] / "README.md").read_text()
    assert "genarm-composition" in card and "| org/helpful | 0.5 |" in card and "base_model: org/base" in card
    assert (
        main(["push", str(guided), "org/guided"]) == 0 and (hub.repos["org/guided"] / "README.md").read_text() == card
    )
    (hub.repos["org/guided"] / "README.md").write_text(card.replace("A base model", "Our base model"))
    assert run("push", guided, "org/guided")[0] == 0
    assert "Our base model" in (hub.repos["org/guided"] / "README.md").read_text()
    out = run("info", "org/guided")[1]
    assert "kind: composition" in out and "reward model 1: org/helpful at alpha 0.5" in out

    # as its card says to use it
    assert _read(_find("org/guided")).alphas == (0.5,)  # what `genarm-hf serve` does before it becomes the server
    config = GenerationConfig.from_pretrained("org/guided")
    assert config.reward_models == ["org/helpful"] and config.alpha == [0.5]
    model, inputs = AutoModelForCausalLM.from_pretrained("org/base"), prompts(2)
    found = model.generate(**inputs, generation_config=config, max_new_tokens=8)
    expected = base.generate(**inputs, reward_models=[AutoModel.from_pretrained(arm)], alpha=0.5, max_new_tokens=8)
    assert torch.equal(found, expected)


# ---------------------------------------------------------------------- what is said


def test_info_of_a_reward_model(hub, arm, run):
    run("push", arm, "org/helpful")
    status, out, _ = run("info", "org/helpful")
    assert status == 0
    assert out.splitlines() == [
        "org/helpful",
        "  kind: reward model, full weights",
        "  objective: helpful",
        "  beta: 0.05 (of the training loss)",
        "  alpha: 0.25 (where none is given)",
        "  trained on: org/pairs, 7 pairs",
        "  trained by: genarm-hf train --data org/pairs",
        f"  revision: {hub.commit('org/helpful')}",
    ]
    assert describe(str(arm)).keys() == describe("org/helpful").keys() - {"revision"}


def test_the_doctor_reads_headers_and_no_weights(hub, arm, tmp_path, run):
    tiny("llama").save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    hub.repos["org/base"] = tmp_path / "base"
    run("push", arm, "org/helpful")
    status, out, _ = run("doctor", "--model", "org/base", "--reward-model", "org/helpful")
    assert status == 0 and "org/helpful" in out and "its ids mean the base's tokens" in out
    here = run("doctor", "--model", tmp_path / "base", "--reward-model", arm)[1]
    sizes = [[line.split()[1:] for line in text.splitlines() if " full " in line] for text in (out, here)]
    assert sizes[0] == sizes[1] and len(sizes[0]) == 2
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    hub.commits["org/base"] = 1
    status, out, _ = run("doctor", "--model", "org/base", "--reward-model", "org/helpful")
    assert status == 1 and "pytorch_model.bin, a pickle file" in out


def test_info_of_an_owner_and_of_a_collection(hub, arm, tmp_path, run):
    for name in ("org/helpful", "org/brief", "else/where"):
        run("push", arm, name)
    tiny("llama").save_pretrained(tmp_path / "plain")
    hub.repos["org/plain"] = tmp_path / "plain"
    rows = run("info", "org")[1].splitlines()
    assert [row.split()[:4] for row in rows[2:]] == [
        ["org/brief", "helpful", "0.05", "0.25"],
        ["org/helpful", "helpful", "0.05", "0.25"],
    ]
    slug = "org/objectives-65f0c0ffee65f0c0ffee0001"
    hub.collections[slug] = ["else/where", "org/plain"]
    assert is_collection(slug)
    assert [row.split()[0] for row in run("info", slug)[1].splitlines()[2:]] == ["else/where"]
    assert "has no reward models on the hub" in run("info", "nobody")[1]
    assert run("info", "org", "--revision", "v1")[0] == 2
    status, _, err = run("info", "org/gone-65f0c0ffee65f0c0ffee0002")
    assert status == 2 and "could not be listed" in err


@pytest.mark.filterwarnings("ignore:Could not find a config file")  # of the oldest PEFT, for a base without a name
def test_info_of_what_is_no_reward_model(hub, tmp_path, run):
    tiny("llama").save_pretrained(tmp_path / "plain")
    lora(tiny("llama")).save_pretrained(tmp_path / "adapter")
    assert "a plain LlamaForCausalLM; a causal LM is read as a reward model" in run("info", tmp_path / "plain")[1]
    assert "a plain adapter, read as a reward model" in run("info", tmp_path / "adapter")[1]
    (tmp_path / "empty").mkdir()
    assert run("info", tmp_path / "empty")[0] == 2
    status, _, err = run("info", "org/nothing")
    assert status == 2 and err.count("\n") == 1 and "hf auth login" in err


def test_an_edited_record_does_not_break_info(arm, run):
    (arm / "training_record.json").write_text("{not json")
    assert "objective: helpful" in run("info", arm)[1]
    (arm / "training_record.json").write_text(json.dumps({"held_out": {"accuracy": {"value": 0.75}}, "pairs": 3}))
    assert "held-out accuracy: 75.0%" in run("info", arm)[1]
    for edited in ({"held_out": [1]}, {"data": 3, "command": {"a": 1}}, {"held_out": {"accuracy": "x"}}):
        (arm / "training_record.json").write_text(json.dumps(edited))
        assert "objective: helpful" in run("info", arm)[1]


@pytest.mark.parametrize("change", [{"beta": "high"}, {"text_config": 3}, {"adapter": [1]}])
def test_an_edited_configuration_is_one_sentence(arm, run, change):
    fields = json.loads((arm / "config.json").read_text())
    (arm / "config.json").write_text(json.dumps(fields | change))
    for command in (("info", arm), ("push", arm, "org/helpful")):
        status, _, err = run(*command)
        assert status == 2 and err.count("\n") == 1 and f"config.json of {str(arm)!r} cannot be used" in err


@pytest.mark.parametrize("edited", [{"genarm_base": 3}, {"genarm_arms": "x"}, {"genarm_arms": [{"model": "m"}]}])
def test_an_edited_composition_is_one_sentence(tmp_path, run, edited):
    place = {"model": "org/base", "revision": None}
    fields = {"architectures": ["GenARMForCausalLM"], "genarm_base": place, "genarm_arms": [place | {"alpha": 1.0}]}
    (tmp_path / "config.json").write_text(json.dumps(fields | edited))
    for command in (("info", tmp_path), ("push", tmp_path, "org/guided")):
        status, _, err = run(*command)
        assert status == 2 and err.count("\n") == 1 and "must name a model as `genarm_base`" in err


# ---------------------------------------------------------------------- what goes wrong


def test_a_broken_download_is_resumed(hub, arm, run):
    run("push", arm, "org/helpful")
    hub.breaking["model.safetensors"] = 2
    assert_same_state(AutoModel.from_pretrained("org/helpful"), state_of(AutoModel.from_pretrained(arm)))
    assert hub.breaking["model.safetensors"] == 0


def test_a_download_that_stays_broken_is_one_error_and_leaves_nothing(hub, arm, run, tmp_path):
    run("push", arm, "org/helpful")
    hub.breaking["resolve"] = 10**6
    with pytest.raises((OSError, ValueError)):
        AutoregressiveRewardModel.from_pretrained("org/helpful")
    status, _, err = run("info", "org/helpful")
    assert status == 2 and err.count("\n") == 1
    hub.breaking.clear()
    assert_same_state(AutoModel.from_pretrained("org/helpful"), state_of(AutoModel.from_pretrained(arm)))


def test_a_broken_upload_is_repeated(hub, arm, run):
    hub.breaking["/lfs/"] = 2
    assert run("push", arm, "org/helpful")[0] == 0
    assert (hub.repos["org/helpful"] / "model.safetensors").read_bytes() == (arm / "model.safetensors").read_bytes()


def test_an_upload_that_stays_broken_commits_nothing(hub, arm, run):
    hub.breaking["/lfs/"] = 10**6
    status, _, err = run("push", arm, "org/helpful")
    assert status == 2 and err.count("\n") == 1
    assert "model.safetensors" in err and "Nothing was committed; the same command tries again" in err
    assert on_hub(hub, "org/helpful") == []
    hub.breaking.clear()
    assert run("push", arm, "org/helpful")[0] == 0


def test_a_file_that_arrives_changed_is_not_committed(hub, arm, run):
    hub.corrupt = True
    status, _, err = run("push", arm, "org/helpful")
    assert status == 2 and "another sha256" in err and "Nothing was committed" in err
    assert on_hub(hub, "org/helpful") == []


def test_a_download_of_another_size_is_refused(hub, arm, run, tmp_path):
    """The client compares sizes; what it says is ours to pass on."""
    run("push", arm, "org/helpful")
    weights = hub.repos["org/helpful"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="could not be read"):
        AutoregressiveRewardModel.from_pretrained("org/helpful")


def test_a_download_with_a_wrong_hash_is_refused_and_not_kept(hub, arm, run, tmp_path):
    run("push", arm, "org/helpful")
    weights = hub.repos["org/helpful"] / "model.safetensors"
    announced = hashlib.sha256(weights.read_bytes()).hexdigest()
    hub.altered.add("model.safetensors")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"model.safetensors of 'org/helpful' arrived changed: its sha256 is"
        ) as error:
            AutoregressiveRewardModel.from_pretrained("org/helpful")
        assert f"the hub says {announced}" in str(error.value)
        assert not list((tmp_path / "cache").rglob(announced))
    hub.altered.clear()
    assert_same_state(AutoModel.from_pretrained("org/helpful"), state_of(AutoModel.from_pretrained(arm)))


def test_a_wrong_hash_of_an_adapter_or_of_shards(hub, tmp_path, run):
    base = tiny("llama")
    base.save_pretrained(tmp_path / "base", max_shard_size="8KB")
    hub.repos["org/base"] = tmp_path / "base"
    base.config._name_or_path = "org/base"
    AutoregressiveRewardModel.from_backbone(lora(base)).save_pretrained(tmp_path / "lora")
    run("push", tmp_path / "lora", "org/brief")
    hub.altered = {"adapter_model.safetensors"}
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors of 'org/brief' arrived changed"):
        AutoregressiveRewardModel.from_pretrained("org/brief", base_model=tiny("llama"))
    hub.altered = {path.name for path in (tmp_path / "base").glob("model-0000[12]*.safetensors")}
    with pytest.raises(ValueError, match=r"model-00001-of-.*\.safetensors of 'org/base' arrived changed"):
        AutoregressiveRewardModel.from_pretrained("org/brief")
    hub.altered = set()
    found = state_of(AutoregressiveRewardModel.from_pretrained("org/brief"))  # the second is not in the cache either
    assert_same_state(AutoModel.from_pretrained(tmp_path / "lora", base_model=tiny("llama")), found)


def test_weights_are_hashed_once_and_not_on_every_load(hub, arm, run, monkeypatch):
    run("push", arm, "org/helpful")
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda file, kind: hashed.append(file.name) or real(file, kind))
    AutoModel.from_pretrained("org/helpful")
    assert len(hashed) == 1
    AutoModel.from_pretrained("org/helpful")
    assert len(hashed) == 1


def test_a_private_repository_without_token(hub, arm, run, monkeypatch):
    run("push", arm, "org/helpful", "--private")
    monkeypatch.delenv("HF_TOKEN")
    status, _, err = run("info", "org/helpful")
    assert status == 2 and err.count("\n") == 1 and "hf auth login" in err
    with pytest.raises(OSError, match="hf auth login"):
        AutoregressiveRewardModel.from_pretrained("org/helpful")
    assert AutoregressiveRewardModel.from_pretrained("org/helpful", token=TOKEN).config.objective == "helpful"


def test_pushing_without_token(hub, arm, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    status, _, err = run("push", arm, "org/helpful")
    assert status == 2 and err.count("\n") == 1 and "hf auth login" in err and not hub.repos


def test_offline_the_cache_is_used(hub, arm, run, monkeypatch):
    run("push", arm, "org/helpful")
    online = run("info", "org/helpful")[1]
    AutoModel.from_pretrained("org/helpful")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert run("info", "org/helpful")[1] == online
    assert_same_state(AutoModel.from_pretrained("org/helpful"), state_of(AutoModel.from_pretrained(arm)))
    assert not hub.asked
    status, _, err = run("push", arm, "org/other")
    assert status == 2 and "HF_HUB_OFFLINE is set" in err
    status, _, err = run("info", "org")
    assert status == 2 and "HF_HUB_OFFLINE is set" in err


@pytest.mark.parametrize("damage", ["cut", "gone", "pickle"])
def test_what_is_not_whole_is_not_sent(hub, arm, run, damage):
    weights = arm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500]) if damage == "cut" else weights.unlink()
    if damage == "pickle":
        torch.save({}, arm / "pytorch_model.bin")
    status, _, err = run("push", arm, "org/helpful")
    assert status == 2 and ("pickle" if damage == "pickle" else "could not be read") in err
    assert not hub.asked


def test_other_folders_and_names_are_refused(hub, arm, tmp_path, run):
    tiny("llama").save_pretrained(tmp_path / "plain")
    assert "is neither a saved reward model nor" in run("push", tmp_path / "plain", "org/plain")[2]
    assert "there is no folder" in run("push", tmp_path / "absent", "org/absent")[2]
    assert run("push", arm, "not a name")[0] == 2
    assert "is for adapters" in run("push", arm, "org/helpful", "--base-model", "org/base")[2]
    assert not hub.asked
