"""Guided replies to a data set of prompts, in a file that survives any kill, by any number of processes."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..decoding.reward_models import as_list, as_rewards, default_alpha
from ..loading import Repository
from ..training.formats import as_number
from .manifest import Row
from .runner import FAILED, Plan, Progress, as_rows, fill
from .systems import guided, prompt_ids

# what decides replies in a folder, besides weights
_DECIDING = (
    "adapter_config.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_BLOCKS, _BLOCK = 64, 2**14  # read of a file, and bytes of each: 1 MB together


def generate_dataset(
    model: Any,
    tokenizer: Any,
    reward_models: Any,
    prompts: Sequence[Any],
    path: str | Path,
    *,
    alpha: float | Sequence[float] | None = None,
    max_new_tokens: int = 128,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    max_tokens_per_batch: int = 8192,
    chat_template: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress = lambda done, total: None,
    **generate_kwargs: Any,
) -> bool:
    """Reply to every prompt, and keep each batch in a file as soon as it is there; [`run`] tells what that means.

    Args:
        model: a causal LM, the base.
        tokenizer: its tokenizer.
        reward_models: one or several.
        prompts: what [`read_prompts`] gives, or prompts as [`run`] takes them. A row's own `alpha` goes before `alpha`.
        path: the file, `.jsonl`. What it holds already is kept, and only the rest is done.
        alpha: guidance strength, a number or one for each reward model. None: that of the reward models, else 1.
        max_new_tokens: tokens of a reply at most. A prompt that leaves no room for them is not asked; its line has an
            `error`, and so has that of a prompt that the chat template refuses.
        samples: replies to each prompt.
        seed: of all draws.
        batch_size: most prompts at once.
        max_tokens_per_batch: most tokens at once, padding and beams included. Prompts are batched by length, the
            longest first, so that what does not fit into memory is known at once.
        chat_template: whether texts go through the tokenizer's chat template, as what a user says. None: if it has one.
        settings: what else decides the replies, for the manifest.
        rank: which of `world_size` processes this is.
        world_size: how many processes share the work, all with the same arguments and one folder.
        progress: told of replies of this process's share that are done, and of all of it.
        **generate_kwargs: of `generate()`.

    Returns:
        whether all replies are there, of all processes.

    Raises:
        ValueError: several samples of what is not drawn; messages without a chat template; and as [`run`].
        OSError: as [`run`].
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    chat = has_template if chat_template is None else chat_template
    arms, rows = as_list(reward_models), as_rows(prompts)
    _check_drawn(model, samples, generate_kwargs)
    if not has_template and (chat or any(isinstance(row["prompt"], list) for row in rows if FAILED not in row)):
        raise ValueError("Prompts are messages, and the tokenizer has no chat template. Set `tokenizer.chat_template`.")
    system = guided(model, tokenizer, arms, alpha, chat_template=chat, max_new_tokens=max_new_tokens, **generate_kwargs)
    default = [default_alpha(arm, model) for arm in arms] if alpha is None else alpha
    rows, columns = _with_alpha(rows, default, len(arms))
    limits = _limits(model, arms)
    rows, lengths = _measured(rows, lambda prompt: _tokens(prompt, tokenizer, chat, limits, max_new_tokens))
    beams = generate_kwargs.get("num_beams") or 1
    plan = Plan(
        "guided",
        seed=seed,
        samples=samples,
        batch_size=batch_size,
        batch_tokens=max_tokens_per_batch,
        length=lambda prompt: beams * lengths[id(prompt)],
        columns=columns,
        settings=settings or {},
        rank=rank,
        world_size=world_size,
    )
    return fill(system, rows, path, plan, progress)


def _check_drawn(model: Any, samples: int, options: Mapping[str, Any]) -> None:
    drawn = options.get("do_sample")
    if drawn is None:
        drawn = getattr(model.generation_config, "do_sample", False)
    if samples > 1 and not drawn:
        raise ValueError(
            f"`samples` must be 1 where nothing is drawn, got {samples}: all replies would be the same. Pass "
            "`do_sample=True` or a temperature."
        )


# ---------------------------------------------------------------------- rows that can be asked


def _with_alpha(rows: Sequence[Row], default: Any, arms: int) -> tuple[list[Row], list[str]]:
    """Rows with an alpha each, if any has one, and the columns that the system wants then."""
    if not any("alpha" in row for row in rows):
        return list(rows), []
    given = list(default) if isinstance(default, (list, tuple)) else default
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    return [_one_with_alpha(row, given, arms) for row in rows], ["alpha"]


def _one_with_alpha(row: Row, default: Any, arms: int) -> Row:
    alpha = row.get("alpha")
    if FAILED in row:
        return row
    if alpha is None or alpha == "":
        return row | {"alpha": default}
    try:
        if not isinstance(alpha, list):
            return row | {"alpha": as_number(alpha, "alpha")}
        if len(alpha) != arms:
            raise ValueError(f"`alpha` must be one number, or one for each of {arms} reward models, got {alpha!r:.60}")
        return row | {"alpha": [as_number(one, "alpha") for one in alpha]}
    except ValueError as error:
        return row | {FAILED: str(error)}


def _measured(rows: Sequence[Row], tokens: Any) -> tuple[list[Row], dict[int, int]]:
    """Rows, of which those that cannot be asked say why, and the tokens of all other prompts by the prompt's `id()`."""
    measured, lengths = [], {}
    for row in rows:
        if FAILED not in row:
            try:
                lengths[id(row["prompt"])] = tokens(row["prompt"])
            except Exception as error:  # whatever tokenizers and chat templates make of odd prompts
                row = row | {FAILED: " ".join(str(error).split()) or type(error).__name__}
        measured.append(row)
    return measured, lengths


def _limits(model: Any, arms: Sequence[Any]) -> dict[str | None, tuple[float, str]]:
    """By prompt template, how many tokens the shortest model reads that has it, and its name; None: no template."""
    limits: dict[str | None, tuple[float, str]] = {None: _positions(model, "the base")}
    for arm, reward in zip(arms, as_rewards(arms, model), strict=True):
        template = getattr(getattr(arm, "config", None), "prompt_template", None)
        own = [_positions(one, name) for one, name in zip(reward.models, reward.names, strict=True)]
        limits[template] = min([limits.get(template, own[0]), *own], key=itemgetter(0))
    return limits


def _positions(model: Any, name: str) -> tuple[float, str]:
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return (math.inf if limit is None else limit), name


def _tokens(prompt: Any, tokenizer: Any, chat: bool, limits: Mapping[str | None, Any], new_tokens: int) -> int:
    """Tokens of a prompt and its reply at most, as the model reads them that reads most.

    Raises:
        ValueError: a model cannot read so many.
    """
    longest = 0
    for template, (limit, name) in limits.items():
        tokens = len(prompt_ids(tokenizer, prompt, chat, template))
        if not tokens:
            raise ValueError("the prompt has no tokens")
        if tokens + new_tokens > limit:
            raise ValueError(
                f"the prompt has {tokens} tokens, and {name} reads at most {limit}, with the {new_tokens} of "
                "`max_new_tokens`"
            )
        longest = max(longest, tokens)
    return longest + new_tokens


# ---------------------------------------------------------------------- which models these are


def identity(name: str) -> dict[str, Any]:
    """What a model's name means now, for the settings of a run: the commit on the hub, or a hash of the folder.

    Args:
        name: folder or hub name.
    """
    repo = Repository.open(name, {})
    if repo.is_local:
        return {"name": name, "content": _content(Path(name))}
    if repo.path("config.json") is None:
        repo.path("adapter_config.json")
    return {"name": name, "revision": repo.hub.get("revision")}


def _content(folder: Path) -> str:
    """Hash of what decides replies; of large files, of parts all over them, which no training leaves as they were."""
    sha = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in _DECIDING or path.suffix == ".safetensors":
            size = path.stat().st_size
            sha.update(f"{path.name} {size}\n".encode())
            with open(path, "rb") as file:
                for block in range(_BLOCKS):
                    file.seek(max(block * _BLOCK, block * size // _BLOCKS))
                    sha.update(file.read(_BLOCK))
    return sha.hexdigest()
