"""`genarm-hf generate --input`: a data set of prompts, in as many processes as a launcher starts."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import check_place
from .loading import load_base, load_reward_model, look_at, quiet
from .parsing import UsageError

if TYPE_CHECKING:
    from .generate import GenerateOptions

_SHOWN = 3  # errors of rows


def run(options: "GenerateOptions") -> None:
    """Read the prompts, load, reply to what is not there yet, and say what is."""
    output = _check(options)
    rank, world_size = processes()
    from ..evaluation.jobs import generate_dataset, identity
    from ..evaluation.prompts import read_prompts
    from .generate import sampling

    columns = {"prompt_column": options.prompt_column, "alpha_column": options.alpha_column}
    prompts = read_prompts(options.input or "", split=options.split, **columns)
    with quiet(), _out_of_memory():
        look_at(options.reward_model)
        base, tokenizer = load_base(options.model, options.dtype, _device(options), device_map=options.device_map)
        arms = [load_reward_model(name, base, options.model, options.dtype) for name in options.reward_model]
        models = {
            "model": identity(options.model),
            "reward_models": [identity(name) for name in options.reward_model],
            "dtype": options.dtype,
        }
        with _progress(rank, world_size) as progress:
            complete = generate_dataset(
                base,
                tokenizer,
                arms,
                prompts,
                output,
                alpha=_alpha(options.alpha),
                samples=options.samples,
                seed=options.seed or 0,
                batch_size=options.batch_size,
                max_tokens_per_batch=options.max_tokens_per_batch,
                chat_template=False if options.no_chat_template else None,
                settings=models,
                rank=rank,
                world_size=world_size,
                progress=progress,
                **sampling(options),
            )
    print(_summary(output) if complete else f"Process {rank} of {world_size} has done its share of {output}.")


def _check(options: "GenerateOptions") -> Path:
    """What can be wrong before anything is read; the output file."""
    single = {"A prompt": options.prompt, "`--compare`": options.compare, "`--show-rewards`": options.show_rewards}
    for name, given in single.items():
        if given:
            raise UsageError(f"{name} does not go with `--input`, which brings prompts of its own.")
    if options.output is None:
        raise UsageError("`--input` needs `--output`, the jsonl file for the replies.")
    output = Path(options.output)
    if output.suffix != ".jsonl" or (output.exists() and not output.is_file()):
        raise UsageError(f"`--output` must be a file that ends in .jsonl, got {options.output!r}.")
    check_place("--output", options.output)
    if output.exists() and Path(options.input or "").exists() and output.samefile(options.input or ""):
        raise UsageError("`--output` is the file of `--input`, which would be overwritten. Choose another one.")
    return output


def processes() -> tuple[int, int]:
    """Which of how many processes this is, as `accelerate launch`, `torchrun` and most launchers say it.

    Raises:
        UsageError: they say no numbers, or such that do not go together.
    """
    said = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if None in said:
        return 0, 1
    try:
        rank, world_size = (int(one or "") for one in said)
    except ValueError:
        rank, world_size = -1, 0
    if not 0 <= rank < world_size:
        raise UsageError(f"RANK and WORLD_SIZE in the environment must be numbers, 0 <= RANK < WORLD_SIZE, got {said}.")
    return rank, world_size


def _device(options: "GenerateOptions") -> str:
    """The device: of several processes on a machine, each has its own."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    local = os.environ.get("LOCAL_RANK")
    if options.device != "auto" or options.device_map or accelerator is None or not local:
        return options.device
    if accelerator.type == "cuda":
        torch.cuda.set_device(int(local))
    return f"{accelerator.type}:{local}"


def _alpha(alpha: list[float]) -> Any:
    """What `guide()` takes; None: what the reward models ask for."""
    return alpha[0] if len(alpha) == 1 else alpha or None


@contextmanager
def _out_of_memory() -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"Out of memory: {str(error).splitlines()[0]} Choose a smaller `--max-tokens-per-batch` or `--batch-size`. "
            "Both decide which prompts are drawn together: if there are replies already, choose another `--output` too."
        ) from error


@contextmanager
def _progress(rank: int, world_size: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, in the first process: its own share, which is about everyone's."""
    from tqdm.auto import tqdm

    bars: list[Any] = []
    title = "" if world_size == 1 else f"process {rank} of {world_size}"

    def tell(done: int, total: int) -> None:
        if bars:
            bars[0].update(done - bars[0].n)
        else:
            bars.append(tqdm(total=total, initial=done, unit=" replies", desc=title or None, disable=rank > 0))

    try:
        yield tell
    finally:
        for bar in bars:
            bar.close()


def _summary(path: Path) -> str:
    """How many replies there are, and the first errors."""
    replies, errors = 0, []
    with open(path, "rb") as file:
        for line in map(json.loads, file):
            replies += line["reply"] is not None
            errors += [f"id {line['id']!r}: {line.get('error')}"] if line["reply"] is None else []
    shown = "".join(f"\n- {error}" for error in errors[:_SHOWN])
    more = f"\n- and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return f"{path}: {replies} replies" + (f", {len(errors)} errors:{shown}{more}" if errors else "")
