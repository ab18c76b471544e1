"""Saves that are whole or not there: what is left of them, who they replace, and what a kill leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from genarm_hf import ARMTrainer
from genarm_hf.training.checkpoints import (
    UNFINISHED,
    clear_unfinished,
    move_model,
    remove_old_checkpoints,
    replace_directory,
)

from ..conftest import tiny
from .toys import arguments, toy_pairs

ROOT = Path(__file__).parents[2]
EVERY_TWO = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}


def trainer(directory: Path, tokenizer: Any, model: Any = None, **options: Any) -> ARMTrainer:
    args = arguments(directory, **EVERY_TWO | options)
    return ARMTrainer(model or tiny(initializer_range=0.1), args, toy_pairs(64), toy_pairs(16, 1), tokenizer)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


# ---------------------------------------------------------------------- killed


@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        ("adapter", 7),
        pytest.param("adapter", 1, marks=pytest.mark.slow),
        pytest.param("full", 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_save_costs_nothing_but_itself(kind: str, stride: int, tmp_path: Path) -> None:
    """SIGKILL at every (or every seventh) thing that a save does to the disk; see killed_saves.py."""
    pytest.importorskip("peft")
    command = [sys.executable, "-m", "tests.training.killed_saves", str(tmp_path), kind, str(stride)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    moments = json.loads(done.stdout.splitlines()[-1])
    assert min(moments.values()) > 20


def test_an_interrupted_checkpoint_is_cleared_by_the_next_run(tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / UNFINISHED / "checkpoint-2", config__json="half")
    first = trainer(tmp_path, tokenizer, max_steps=2)
    with pytest.raises(ValueError, match="No valid checkpoint"):
        first.train(resume_from_checkpoint=True)
    first.train()
    assert names(tmp_path) == {"checkpoint-2"}


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-2", old="1")
    write(tmp_path / UNFINISHED / "checkpoint-2", new="2")
    replace_directory(tmp_path / "checkpoint-2")
    assert names(tmp_path) == {"checkpoint-2"} and names(tmp_path / "checkpoint-2") == {"new"}


def test_a_checkpoint_that_was_not_replaced_is_put_back(tmp_path: Path) -> None:
    write(tmp_path / UNFINISHED / "replaced" / "checkpoint-2", old="1")
    write(tmp_path / UNFINISHED / "checkpoint-2", new="2")
    clear_unfinished(tmp_path)
    assert names(tmp_path) == {"checkpoint-2"} and names(tmp_path / "checkpoint-2") == {"old"}


def test_moving_a_model_is_finished(tmp_path: Path) -> None:
    """Killed between two files: the first is in place, the second is not."""
    write(tmp_path, config__json="old", other="kept")
    write(tmp_path / UNFINISHED / "model", config__json="new")
    write(tmp_path, adapter_model__safetensors="new")
    write(tmp_path / UNFINISHED, moving__json='["adapter_model.safetensors", "config.json"]')
    clear_unfinished(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "config.json": "new",
        "adapter_model.safetensors": "new",
        "other": "kept",
    }


def test_a_model_replaces_weights_in_other_files(tmp_path: Path) -> None:
    shards = {"model-00001-of-00002__safetensors": "", "model__safetensors__index__json": "{}"}
    write(tmp_path, **shards)
    write(tmp_path / UNFINISHED / "model", model__safetensors="new")
    write(tmp_path / UNFINISHED / "model" / "templates", a__jinja="new")
    move_model(tmp_path)
    assert names(tmp_path) == {"model.safetensors", "templates"}
    clear_unfinished(tmp_path)
    clear_unfinished(tmp_path / "nowhere")


# ---------------------------------------------------------------------- which are kept


@pytest.mark.parametrize(
    ("limit", "best", "keep_last", "left"),
    [
        (None, None, True, {2, 4, 6, 8}),
        (0, None, True, {2, 4, 6, 8}),
        (2, None, True, {6, 8}),
        (2, 2, True, {2, 8}),
        (1, 4, True, {4, 8}),
        (1, 4, False, {4}),
        (9, 2, True, {2, 4, 6, 8}),
    ],
)
def test_old_checkpoints(limit: int | None, best: int | None, keep_last: bool, left: set, tmp_path: Path) -> None:
    for age, step in enumerate((2, 4, 6, 8)):
        write(tmp_path / f"checkpoint-{step}", weights="")
        os.utime(tmp_path / f"checkpoint-{step}", (1e9 + 100 * age,) * 2)
    remove_old_checkpoints(tmp_path, limit, best and str(tmp_path / f"checkpoint-{best}"), keep_last)
    assert names(tmp_path) == {f"checkpoint-{step}" for step in left}


def test_a_new_run_keeps_its_own(tmp_path: Path) -> None:
    """The newest are those written last, also where an earlier run in this folder got further."""
    for age, step in enumerate((500, 600, 100)):
        os.utime(write(tmp_path / f"checkpoint-{step}", weights=""), (1e9 + 100 * age,) * 2)
    remove_old_checkpoints(tmp_path, 2, None)
    assert names(tmp_path) == {"checkpoint-600", "checkpoint-100"}


@pytest.mark.parametrize("limit", [1, 2, None])
def test_the_best_checkpoint_is_named_by_its_place(limit: int | None, tokenizer: Any, tmp_path: Path) -> None:
    steps = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "save_total_limit": limit}
    # the log-probability of the rejected responses is best where it is highest: before it is trained away
    best = {"load_best_model_at_end": True, "metric_for_best_model": "logps/rejected", "greater_is_better": True}
    done = trainer(tmp_path, tokenizer, beta=1.0, **steps, **best)
    done.train()
    found = Path(done.state.best_model_checkpoint)
    assert found == tmp_path / f"checkpoint-{done.state.best_global_step}"
    left = {1: {found.name}, 2: {found.name, "checkpoint-6"}, None: {"checkpoint-2", "checkpoint-4", "checkpoint-6"}}
    assert names(tmp_path) == left[limit]
    state = json.loads((found / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(found)
    arm = AutoModel.from_pretrained(found)
    assert all(torch.equal(a, b) for a, b in zip(arm.parameters(), done.model.parameters(), strict=True))


# ---------------------------------------------------------------------- what is saved


def test_cards_name_the_place_and_keep_peoples_words(tokenizer: Any, tmp_path: Path) -> None:
    done = trainer(tmp_path / "arm", tokenizer, max_steps=2)
    done.train()
    done.save_model()
    for place in (tmp_path / "arm", tmp_path / "arm" / "checkpoint-2"):
        card = (place / "README.md").read_text()
        assert f"from_pretrained('{place}')" in card and UNFINISHED not in card
    (tmp_path / "arm" / "README.md").write_text("---\nlicense: mit\n---\nOur own words.\n")
    done.save_model()
    assert "Our own words." in (tmp_path / "arm" / "README.md").read_text()


def test_another_models_directory_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "taken", adapter_config__json="{}", config__json="{}")
    done = trainer(tmp_path / "arm", tokenizer)
    with pytest.raises(ValueError, match="of another model"):
        done.save_model(str(tmp_path / "taken"))
    assert names(tmp_path / "taken") == {"adapter_config.json", "config.json"}


def test_an_adapter_gives_way_to_full_weights(tokenizer: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    tiny().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapter = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trainer(tmp_path / "arm", tokenizer, adapter).save_model()
    assert "adapter_model.safetensors" in names(tmp_path / "arm")
    full = trainer(tmp_path / "arm", tokenizer)
    full.save_model()
    assert not {name for name in names(tmp_path / "arm") if name.startswith("adapter")}
    arm = AutoModel.from_pretrained(tmp_path / "arm")
    assert all(torch.equal(a, b) for a, b in zip(arm.parameters(), full.model.parameters(), strict=True))


def test_uploads_are_of_what_is_in_place(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[tuple[str, bool]] = []
    done = trainer(tmp_path, tokenizer, max_steps=4)
    done.args.push_to_hub = True
    base = next(kind for kind in type(done).__mro__ if kind.__name__ == "Trainer")
    record = lambda self, folder: pushed.append((folder, Path(folder, "config.json").is_file()))  # noqa: E731
    monkeypatch.setattr(base, "_push_from_checkpoint", record)
    done.train()
    assert pushed == [(str(tmp_path / f"checkpoint-{step}"), True) for step in (2, 4)]
