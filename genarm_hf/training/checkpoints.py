"""Saves that are whole or not there, whenever the process is killed.

The `Trainer` writes into `checkpoint-N` file by file, and what a kill leaves of it looks like a checkpoint. Here a save
is written to a folder of another name and moved into place when it is complete.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from ..adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, active_adapter
from ..configuration_genarm import GenARMConfig
from ..loading import INDEX
from ..model_card import CARD, RECORD, write_model_card
from ..saving import stale_weights

UNFINISHED = "_unfinished_save"
"""Folder of what is being saved, in the one it will be moved to. The `Trainer` uploads no name that starts so."""

_MODEL = "model"
_REPLACED = "replaced"
_MOVING = "moving.json"
_STATE = "trainer_state.json"
_WEIGHTS = ("model*.safetensors", INDEX, ADAPTER_CONFIG, ADAPTER_WEIGHTS)


class WholeSaves(Trainer):
    """A `Trainer` whose checkpoints and models appear when they are complete, on one process or many.

    A checkpoint appears by one rename, and only then are old ones removed. A model is written beside the one of before,
    whose files it then replaces; should that be interrupted, the next run finishes it. All of this holds for a process
    that is killed; after a loss of power, what the disk had not written yet may be missing.
    """

    _saving_checkpoint = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`, after clearing up behind a run that was killed."""
        self._clear(Path(self.args.output_dir))
        return super().train(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the reward model; a complete one that is there stays until the new one is complete.

        Args:
            output_dir: default the `output_dir` of the options.
            _internal_call: of the `Trainer`, which then does not upload.

        Raises:
            ValueError: the directory holds another model's weights.
        """
        if self._saving_checkpoint:
            super().save_model(output_dir, _internal_call=True)
            return
        target = Path(output_dir or self.args.output_dir)
        stale_weights(target, is_adapter=active_adapter(self.accelerator.unwrap_model(self.model)) is not None)
        self._clear(target)
        staged = target / UNFINISHED / _MODEL
        if self.args.should_save:
            staged.mkdir(parents=True)
            for name in (CARD, RECORD):  # people's words are kept, and how these weights came about, if they are these
                if (target / name).is_file():
                    shutil.copyfile(target / name, staged / name)
        with self._whole_state_dict():
            super().save_model(str(staged), _internal_call=True)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            _write_card(staged, target)
            move_model(target)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        directory = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._clear(directory)
        self._saving_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint = False
        self._remember_best(directory, name)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            staged = directory / UNFINISHED / name
            self.state.save_to_json(str(staged / _STATE))
            _write_card(staged, directory / name)
            replace_directory(directory / name)
            remove_old_checkpoints(directory, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(directory / name))

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints are, and, while one is being saved, where it is written."""
        directory = super()._get_output_dir(trial)
        return os.path.join(directory, UNFINISHED) if self._saving_checkpoint else directory

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in `Trainer`, but of what is in its place."""
        if not self._saving_checkpoint:
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_best_model(self) -> None:
        """As in `Trainer`; what it would then remove file by file is removed at once."""
        super()._load_best_model()
        best = self.state.best_model_checkpoint
        if self.args.should_save and self.args.save_total_limit == 1:
            remove_old_checkpoints(Path(best).parent, 1, best, keep_last=False)

    def _clear(self, directory: Path) -> None:
        """Finish or remove what a killed run left, before any process writes there again."""
        if self.args.should_save:
            clear_unfinished(directory)
        self.accelerator.wait_for_everyone()

    def _remember_best(self, directory: Path, name: str) -> None:
        """The best checkpoint's name is that of its place, and not of where it was written."""
        best = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if best == name or (directory / best).is_dir():
            self.state.best_model_checkpoint = str(directory / best)

    @contextmanager
    def _whole_state_dict(self) -> Iterator[None]:
        """Sharded training that saves shards in checkpoints gathers the whole model for its final place."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is None or "SHARDED" not in str(plugin.state_dict_type):
            yield
            return
        kind = plugin.state_dict_type
        plugin.set_state_dict_type("FULL_STATE_DICT")
        try:
            yield
        finally:
            plugin.set_state_dict_type(kind)


def _write_card(staged: Path, place: Path) -> None:
    """The card names the place where the model will be, and not the one where it was written."""
    if (staged / "config.json").is_file():
        write_model_card(GenARMConfig.from_pretrained(staged), staged, repo_id=str(place))


def replace_directory(target: Path) -> None:
    """Move a complete checkpoint from the folder of unfinished ones to its place, where an older one may be.

    Args:
        target: its place.
    """
    unfinished = target.parent / UNFINISHED
    if target.exists():
        (unfinished / _REPLACED).mkdir()
        os.rename(target, unfinished / _REPLACED / target.name)
    os.rename(unfinished / target.name, target)
    shutil.rmtree(unfinished)


def move_model(target: Path) -> None:
    """Replace the model in a directory by the complete one in its folder of unfinished ones.

    What is to be moved is written down first, so that [`clear_unfinished`] can finish what is interrupted.

    Args:
        target: the directory.
    """
    unfinished = target / UNFINISHED
    staged = unfinished / _MODEL
    names = sorted(str(file.relative_to(staged)) for file in staged.rglob("*") if file.is_file())
    draft = unfinished / f"{_MOVING}.draft"
    draft.write_text(json.dumps(names), encoding="utf-8")
    os.replace(draft, unfinished / _MOVING)
    _finish_moving(target)


def _finish_moving(target: Path) -> None:
    unfinished = target / UNFINISHED
    names = json.loads((unfinished / _MOVING).read_text(encoding="utf-8"))
    for name in names:
        if (unfinished / _MODEL / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished / _MODEL / name, target / name)
    if names:
        for file in [file for pattern in _WEIGHTS for file in target.glob(pattern) if file.name not in names]:
            file.unlink()
    shutil.rmtree(unfinished)


def clear_unfinished(directory: Path) -> None:
    """Finish or remove what a killed save left in a directory of checkpoints.

    A model that was complete and being moved is moved; a checkpoint that was to be replaced, and was not, is put back;
    anything else is incomplete and goes.

    Args:
        directory: may be missing.
    """
    unfinished = directory / UNFINISHED
    if (unfinished / _MOVING).is_file():
        _finish_moving(directory)
        return
    for replaced in (unfinished / _REPLACED).glob("*"):
        if not (directory / replaced.name).exists():
            os.rename(replaced, directory / replaced.name)
    if unfinished.exists():
        shutil.rmtree(unfinished)


def remove_old_checkpoints(directory: Path, limit: int | None, best: str | None, keep_last: bool = True) -> None:
    """Remove the oldest checkpoints; each disappears by one rename before its files go.

    Args:
        directory: of the checkpoints.
        limit: how many to keep; None or 0: all.
        best: a checkpoint that is kept in any case.
        keep_last: so is the newest one, to go on from.
    """
    checkpoints = [Path(path) for path in sort_checkpoints(str(directory), use_mtime=True)]
    kept = {Path(best)} if best is not None else set()
    kept |= set(checkpoints[-1:]) if keep_last else set()
    removable = [checkpoint for checkpoint in checkpoints if checkpoint not in kept]
    surplus = len(checkpoints) - max(limit or len(checkpoints), len(kept))
    for checkpoint in removable[: max(surplus, 0)]:
        (directory / UNFINISHED).mkdir(exist_ok=True)
        os.rename(checkpoint, directory / UNFINISHED / checkpoint.name)
        shutil.rmtree(directory / UNFINISHED)
