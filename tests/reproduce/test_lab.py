"""The lab: what it makes once, and that it is complete or absent."""

import json

import pytest

from genarm_hf import playground
from genarm_hf.reproduce.lab import FOLDER_VARIABLE, Lab, default_folder

SETTINGS = {"seed": 0, "rate": 0.1}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "lab", fast=True)


def write(folder):
    (folder / "model").write_text("weights")


def test_a_result_is_made_once_a_setting(lab):
    made = []
    folders = [
        lab.trained(kind, settings, lambda draft: made.append(draft) or write(draft))
        for kind, settings in [("arm", SETTINGS), ("arm", dict(reversed(SETTINGS.items()))), ("dpo", SETTINGS)]
    ]
    assert len(made) == 2 and folders[0] == folders[1] != folders[2]
    assert (folders[0] / "model").read_text() == "weights"
    assert json.loads((folders[0] / "settings.json").read_text()) == {"kind": "arm", **SETTINGS}
    assert lab.trained("arm", SETTINGS | {"seed": 1}, write) != folders[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_fails_leaves_nothing(lab, error):
    def fail(folder):
        write(folder)
        raise error

    with pytest.raises(error):
        lab.trained("arm", SETTINGS, fail)
    assert [path.name for path in lab.folder.iterdir()] == [".locks"]
    assert (lab.trained("arm", SETTINGS, write) / "model").exists()


def test_prompts_are_held_out_and_apart(tmp_path):
    for fast, reported, dev in [(True, 30, 30), (False, 300, 60)]:
        lab = Lab(tmp_path, fast)
        assert (len(lab.prompts), len(lab.dev_prompts)) == (reported, dev)
        assert not set(lab.prompts) & set(lab.dev_prompts)
    test = set(playground.prompts(6000, seed=0, split="test"))
    assert len(test & set(lab.prompts)) > 0.9 * len(lab.prompts)
    assert not set(playground.prompts(20000, seed=0)) & set(lab.prompts)


def test_pairs_are_those_of_the_playground_drawn_once(lab, monkeypatch):
    drawn = lab.pairs("harmless", 3, seed=1)
    assert drawn == playground.preference_pairs("harmless", 3, seed=1)
    monkeypatch.setattr(Lab, "_draw", None)  # what is on disk is read
    assert lab.pairs("harmless", 3, seed=1) == drawn
    assert lab.pairs("brief", 3, seed=1, scale=4.0) == playground.preference_pairs("brief", 3, seed=1, scale=4.0)


def test_the_folder_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "genarm_hf" / "lab"


def test_bases_are_pretrained_once(lab, monkeypatch):
    from genarm_hf.playground import pretrain

    monkeypatch.setattr(pretrain, "evaluate", lambda *_: None)
    monkeypatch.setattr(pretrain, "SIZES", {"weak": pretrain.Size(32, 1, steps=1, learning_rate=1e-3)})
    weak = lab.weak
    assert weak.num_parameters() < 1e5 and not weak.training
    monkeypatch.setattr(pretrain, "pretrain", None)
    again = Lab(lab.folder, fast=True).weak
    assert all((a == b).all() for a, b in zip(weak.parameters(), again.parameters(), strict=True))
