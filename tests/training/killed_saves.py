"""Trains, saves, and kills itself with SIGKILL at every single step of a save: run by test_checkpoints.py.

Each attempt is a forked child that dies at the k-th file that is opened for writing, renamed or removed while it saves,
for every STRIDE-th k from the last. Native code writes weights and optimizer where Python does not see it: half
a file is left of those.

    python -m tests.training.killed_saves DIRECTORY adapter|full STRIDE
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.trainer_utils import get_last_checkpoint

from genarm_hf import ARMTrainer

from ..conftest import tiny
from .toys import arguments, toy_pairs, word_tokenizer

_WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile"}


class Killer:
    """Counts what a save does to the disk while `watching`, and dies at the event of number `at`."""

    def __init__(self) -> None:
        self.watching, self.count, self.at = False, 0, 0
        sys.addaudithook(self._hear)
        for module, name in ((safetensors.torch, "save_file"), (torch, "save")):
            setattr(module, name, self._cut_short(getattr(module, name)))
        import peft.peft_model
        import peft.utils.save_and_load
        import transformers.modeling_utils

        for module in (peft.peft_model, peft.utils.save_and_load, transformers.modeling_utils):
            for name in ("safe_save_file", "save_file"):
                if hasattr(module, name):
                    setattr(module, name, safetensors.torch.save_file)

    def _hear(self, event: str, details: tuple) -> None:
        if self.watching and (event in _WRITES or (event == "open" and "w" in str(details[1]))):
            self.happens()

    def happens(self, last_words: Callable[[], Any] = lambda: None) -> None:
        self.count += 1
        if self.count == self.at:
            self.watching = False
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    def _cut_short(self, save: Callable) -> Callable:
        def wrapped(data: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            watching, self.watching = self.watching, False
            save(data, path, *args, **kwargs)
            self.watching = watching
            if watching:
                self.happens(lambda: os.truncate(path, Path(path).stat().st_size // 2))

        return wrapped


def build(directory: Path, kind: str) -> ARMTrainer:
    peft_config = None
    if kind == "adapter":
        from peft import LoraConfig

        peft_config = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.2, task_type="CAUSAL_LM")
    args = arguments(
        directory,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        max_steps=6,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
    )
    model = AutoModelForCausalLM.from_pretrained(directory.parent / "base")
    return ARMTrainer(model, args, toy_pairs(24), None, word_tokenizer(), peft_config)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def forked(work: Callable[[], Any]) -> int:
    """Status of a child that does the work: 0, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return directory


def kill_checkpoints(root: Path, kind: str, killer: Killer, stride: int) -> int:
    """Every moment of the second checkpoint's save; then resume, and end where the undisturbed run ended."""
    whole = build(fresh(root / "whole"), kind)
    whole.train()
    expected, files = weights(whole.model), _names(root / "whole" / "checkpoint-6")

    def attempt(directory: Path, at: int) -> None:
        trainer = build(directory, kind)
        save = trainer._save_checkpoint

        def watched(*args: Any, **kwargs: Any) -> None:
            killer.at, killer.count, killer.watching = at, 0, trainer.state.global_step == 4
            save(*args, **kwargs)
            if killer.watching:
                (root / "events").write_text(str(killer.count))
            killer.watching = False

        trainer._save_checkpoint = watched  # type: ignore[method-assign]
        trainer.train()

    def resume(directory: Path) -> None:
        trainer = build(directory, kind)
        trainer.train(resume_from_checkpoint=True)
        assert same(weights(trainer.model), expected)
        assert {path.name for path in directory.iterdir()} == {"checkpoint-6"}

    assert forked(lambda: attempt(fresh(root / "run"), 0)) == 0
    events = int((root / "events").read_text())
    for at in range(events, 0, -stride):
        directory = fresh(root / "run")
        assert forked(lambda d=directory, k=at: attempt(d, k)) == -signal.SIGKILL, at
        last = get_last_checkpoint(str(directory))
        assert last is not None and Path(last).name in ("checkpoint-2", "checkpoint-4"), (at, last)
        assert _names(Path(last)) == files, at
        AutoModel.from_pretrained(last)
        assert forked(lambda d=directory: resume(d)) == 0, at
    return events


def kill_models(root: Path, kind: str, killer: Killer, stride: int) -> int:
    """Every moment of saving a model over an earlier one: what is there loads, and is one of the two."""
    first = build(fresh(root / "model"), kind)
    first.train()
    first.save_model()
    shutil.rmtree(root / "model" / "checkpoint-6")
    shutil.copytree(root / "model", fresh(root / "earlier"))
    old = weights(AutoModel.from_pretrained(root / "model").backbone)
    with torch.no_grad():
        for parameter in first.model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    new = weights(first.model)
    assert not same(old, new)

    def attempt(at: int) -> None:
        killer.at, killer.count, killer.watching = at, 0, True
        first.save_model()
        killer.watching = False
        (root / "events").write_text(str(killer.count))

    assert forked(lambda: attempt(0)) == 0
    assert same(weights(AutoModel.from_pretrained(root / "model").backbone), new)
    events, seen = int((root / "events").read_text()), set()
    for at in range(events, 0, -stride):
        shutil.copytree(root / "earlier", fresh(root / "model"))
        assert forked(lambda k=at: attempt(k)) == -signal.SIGKILL, at
        found = weights(AutoModel.from_pretrained(root / "model").backbone)
        assert same(found, old) or same(found, new), at
        seen.add(same(found, new))
        assert forked(first.save_model) == 0
        assert same(weights(AutoModel.from_pretrained(root / "model").backbone), new), at
        assert _names(root / "model") == _names(root / "earlier")
    assert seen == {False, True}
    return events


def _names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def main(root: Path, kind: str, stride: int) -> None:
    torch.set_num_threads(1)
    tiny("llama", initializer_range=0.1).save_pretrained(root / "base")
    word_tokenizer().save_pretrained(root / "base")
    killer = Killer()
    moments = {"checkpoint": kill_checkpoints(root, kind, killer, stride)}
    print(json.dumps(moments | {"model": kill_models(root, kind, killer, stride)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
