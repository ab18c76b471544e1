"""`genarm-hf compose`: write the directory that vLLM serves as a guided model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import written_whole
from .loading import open_part, quiet
from .parsing import CommandParser, UsageError

if TYPE_CHECKING:
    from ..integrations.vllm.composition import Composition


@dataclass
class ComposeOptions:
    """What may be asked for."""

    model: str = field(metadata={"help": "the base model: folder or hub name", "metavar": "BASE"})
    output: str = field(metadata={"help": "folder to write, for `genarm-hf serve`", "metavar": "DIR"})
    reward_model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "a reward model, with full weights or LoRA on BASE: folder or hub name; may be repeated",
            "metavar": "ARM",
            "action": "append",
        },
    )
    alpha: list[float] = field(
        default_factory=list,
        metadata={
            "help": "guidance strength of requests that name none: one number for all reward models, or one for each "
            "(default: theirs, else 1)",
            "metavar": "A",
            "action": "append",
        },
    )


def parser() -> CommandParser:
    """The command line of `genarm-hf compose`."""
    return CommandParser(
        ComposeOptions,
        "compose",
        "Write a folder that vLLM serves: a base and the reward models that guide it. Weights stay where they are.",
    )


def run(options: ComposeOptions) -> None:
    """Check the models, write the folder, say what to do with it."""
    target = Path(options.output)
    composition = write_folder(options, target)
    print("\n".join([summary(composition, str(target)), "Next:", f"  genarm-hf serve {target}"]))


def write_folder(options: ComposeOptions, target: Path) -> "Composition":
    """Check the models and write the folder.

    Raises:
        UsageError: a model is not there, or the folder holds something else.
        ValueError: the models cannot be served together.
    """
    from ..integrations.vllm.composition import compose, write

    _check(options, target)
    with quiet():
        arms = [open_part("--reward-model", name) for name in options.reward_model]
        composition = compose(open_part("--model", options.model), arms, options.alpha)
        with written_whole(target) as draft:
            write(composition, draft)
    return composition


def _check(options: ComposeOptions, target: Path) -> None:
    """Everything that can be wrong before models are looked at."""
    from ..integrations.vllm.composition import is_composition

    if not options.reward_model:
        raise UsageError("`--reward-model` is missing; name at least one folder or hub name.")
    if len(options.alpha) not in (0, 1, len(options.reward_model)):
        raise UsageError(
            f"`--alpha` must be one number, or one for each of the {len(options.reward_model)} reward models; "
            f"got {len(options.alpha)}."
        )
    if target.exists() and not (target.is_dir() and (is_composition(target) or not any(target.iterdir()))):
        raise UsageError(f"`--output` {options.output!r} exists, and holds something else. Choose another folder.")


def summary(composition: "Composition", name: str) -> str:
    """What a composition is made of, and what its user should know.

    Args:
        composition: the models.
        name: what it is called.
    """
    lines = [f"{name} is {composition.base.model}, guided by"]
    for part, alpha in zip(composition.arms, composition.alphas, strict=True):
        objective = getattr(part.genarm, "objective", None)
        lines.append(f"  {part.model}{f' ({objective})' if objective else ''} at alpha {alpha:g}")
    if composition.arms[0].adapter is not None:
        lines.append("They are LoRA on its weights, which are held once; vLLM runs them uncompiled.")
    templates = [part.model for part in composition.arms if getattr(part.genarm, "prompt_template", None)]
    lines += [f"Its prompts reach {name} without the prompt template it was trained with." for name in templates]
    return "\n".join([*lines, "Weights are read from where they are now."])
