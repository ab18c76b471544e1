"""`genarm-hf doctor`: whether a base and reward models fit, what they need, which fast path applies, and what to type.

No weights are read. Every check is that of loading, of `generate()` or of serving, run on models without weights
([`outline`](outline.py)); here they are only asked one after the other, so that all problems are said at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from ..loading import reason
from .loading import quiet
from .outline import Outline, open_base, open_reward_model
from .parsing import CommandParser, UsageError
from .text import paragraph, table

_LONGEST = 4096  # tokens for which memory is told where nobody says how many
_SMALL = 4  # a reward model of so many times fewer weights than the base is worth being tried as the one that drafts


@dataclass
class DoctorOptions:
    """What may be asked for."""

    model: str = field(metadata={"help": "the base model: folder or hub name", "metavar": "BASE"})
    reward_model: list[str] = field(
        default_factory=list,
        metadata={"help": "a reward model: folder or hub name; may be repeated", "metavar": "ARM", "action": "append"},
    )
    alpha: list[float] = field(
        default_factory=list,
        metadata={
            "help": "guidance strength: one number for all reward models, or one for each (default: theirs, else 1)",
            "metavar": "A",
            "action": "append",
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": f"tokens of prompt and reply together (default: what all models can read, at most {_LONGEST})",
            "metavar": "N",
        },
    )
    batch_size: int = field(default=1, metadata={"help": "texts generated at once", "metavar": "N"})


@dataclass
class Diagnosis:
    """What was found: `problems` make the pair unfit, `facts` are titles with what is said of them."""

    problems: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def attempt(self, check: Callable[[], Any]) -> Any:
        """What a check gives; None, and a problem noted, where it fails."""
        try:
            return check()
        except Exception as error:  # what a broken file makes of the libraries underneath is a finding too
            said = reason(error)
            if said not in self.problems:
                self.problems.append(said)
            return None


def parser() -> CommandParser:
    """The command line of `genarm-hf doctor`."""
    return CommandParser(
        DoctorOptions,
        "doctor",
        "Say whether reward models fit a base (vocabulary, positions, files), how much memory they need, which fast "
        "path applies, and what to type. Weights are not loaded. Exit status 1: they do not fit.",
    )


def run(options: DoctorOptions) -> int:
    """Print the diagnosis.

    Returns:
        exit status: 1 where there are problems.
    """
    _check(options)
    found = Diagnosis()
    with quiet():
        base = found.attempt(partial(_opened, options.model, open_base))
        arms = [found.attempt(partial(_opened, name, open_reward_model, base)) for name in options.reward_model]
        if base is not None and all(arms):
            examine(options, base, arms, found)
    for title, text in found.facts:
        print(f"{title}\n{text}" if "\n" in text else paragraph(f"{title}: {text}", hanging=2))
    print()
    for problem in found.problems:
        print(paragraph(f"PROBLEM: {problem}", hanging=2))
    print("They do not fit." if found.problems else "They fit. Type:\n\n" + what_to_type(options, arms))
    return 1 if found.problems else 0


def _opened(name: str, opener: Callable[..., Outline], *rest: Any) -> Outline:
    """A model; what the libraries underneath say of one that is wrong does not always repeat its name."""
    try:
        return opener(name, *rest)
    except Exception as error:
        if name in str(error):
            raise
        raise ValueError(f"{name!r} could not be loaded: {reason(error)}") from error


def _check(options: DoctorOptions) -> None:
    """Everything that can be wrong before models are looked at."""
    if not options.reward_model:
        raise UsageError("`--reward-model` is missing; name at least one folder or hub name.")
    if len(options.alpha) not in (0, 1, len(options.reward_model)):
        raise UsageError(
            f"`--alpha` must be one number, or one for each of the {len(options.reward_model)} reward models; "
            f"got {len(options.alpha)}."
        )
    if not all(abs(alpha) < float("inf") for alpha in options.alpha):
        raise UsageError(f"`--alpha` must be finite, got {' '.join(map(str, options.alpha))}.")
    for name in ("max_length", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"`--{name.replace('_', '-')}` must be at least 1, got {value}.")


def examine(options: DoctorOptions, base: Outline, arms: list[Outline], found: Diagnosis) -> None:
    """Look at models that could be opened.

    Args:
        options: what was asked.
        base: the base.
        arms: the reward models.
        found: where problems and facts go.
    """
    from ..decoding.reward_models import as_reward_lm

    found.facts.append(("Models", _models(base, arms)))
    for index, arm in enumerate(arms):
        name = f"reward_models[{index}] ({arm.name})"
        found.attempt(partial(as_reward_lm, arm.model, name, base.model))
        _vocabulary(base, arm, name, found)
    length = _length(options, base, arms, found)
    found.facts.append(("Precision", _precision(base, arms)))
    found.facts.append(("Memory", _memory(base, arms, options.batch_size, length)))
    found.facts += [(f"Fast path of {arm.name}", fast_path(base, arm)) for arm in arms]
    found.facts.append(("vLLM", serving(options)))


def _models(base: Outline, arms: list[Outline]) -> str:
    rows = [
        [
            one.name,
            "LoRA" if one.adapter_of else "full",
            _count(one.parameters),
            "+".join(sorted(one.stored)) or str(one.model.dtype).removeprefix("torch."),
            _bytes(one.size),
            str(one.positions or "any"),
            str(_vocab_size(one)),
        ]
        for one in (base, *arms)
    ]
    return table(["model", "weights", "parameters", "stored as", "size", "positions", "vocabulary"], rows)


def _vocab_size(one: Outline) -> int:
    from ..vocabulary import vocab_size

    return vocab_size(one.model)


def _vocabulary(base: Outline, arm: Outline, name: str, found: Diagnosis) -> None:
    from ..vocabulary import check_vocabularies

    known = len(found.problems)
    found.attempt(partial(check_vocabularies, base.model, arm.model, name, base.tokenizer, arm.tokenizer))
    if len(found.problems) > known:
        return
    sizes = _vocab_size(base), _vocab_size(arm)
    padding = "" if sizes[0] == sizes[1] else f" ({sizes[0]} and {sizes[1]}: ids of one alone are never sampled)"
    compared = base.tokenizer is not None and (arm.tokenizer is not None or arm.adapter_of is not None)
    how = "its ids mean the base's tokens" if compared else "of a size that fits; no tokenizer was found to compare"
    found.facts.append((f"Vocabulary of {arm.name}", how + padding))


def _length(options: DoctorOptions, base: Outline, arms: list[Outline], found: Diagnosis) -> int:
    """Tokens that a text may have, after a look at everybody's positions."""
    known = [(one.positions, one.name) for one in (base, *arms) if one.positions is not None]
    longest, name = min(known, default=(_LONGEST, ""))
    if options.max_length is not None and options.max_length > longest:
        found.problems.append(
            f"`--max-length` is {options.max_length}, and {name} was made for {longest} tokens "
            f"(config.max_position_embeddings). Keep prompt and reply within {longest} tokens, or give a reward model "
            "a shorter prompt of its own as `reward_inputs=`."
        )
    elif known:
        found.facts.append(("Positions", f"prompt and reply together may have {longest} tokens, those of {name}"))
    return options.max_length or min(longest, _LONGEST)


def _precision(base: Outline, arms: list[Outline]) -> str:
    names = [str(one.model.dtype).removeprefix("torch.") for one in (base, *arms)]
    said = f"computed in {', '.join(dict.fromkeys(names))}; combined in float32"
    wider = [arm.name for arm in arms if arm.model.dtype.itemsize > base.model.dtype.itemsize]
    if wider:
        said += f". {wider[0]} is wider than the base: loaded with `dtype={names[0]!r}` it takes half the memory"
    return said


def _memory(base: Outline, arms: list[Outline], rows: int, length: int) -> str:
    from .env import free_memory

    # one pass holds an adapter's terms twice: as PEFT does, and side by side
    weights = base.size + sum(arm.size * (2 if arm.adapter_of and not arm.own_copy else 1) for arm in arms)
    caches = [one.cache_size(rows, length) for one in (base, *arms)]
    known = sum(size for size in caches if size is not None)
    said = f"weights {_bytes(weights)}"
    said += f", keys and values of {rows} x {length} tokens {_bytes(known)}"
    said += " (one model's could not be told)" if None in caches else ""
    said += f", together {_bytes(weights + known)}, and a third more while they run"
    free = [
        f"{name} {_bytes(size)}{'' if size > weights + known else ' (too little)'}"
        for name, size in free_memory().items()
    ]
    return f"{said}. Free here: {', '.join(free)}"


def fast_path(base: Outline, arm: Outline) -> str:
    """Which of the fast ways a reward model can go, and why not the others.

    Args:
        base: the base.
        arm: the reward model.
    """
    from ..decoding.shared_backbone import why_not_shared

    reason = why_not_shared(base.model, arm.model)
    if getattr(base.model.config, "quantization_config", None):
        reason = "the base is quantised"
    if arm.replaces:
        reason = f"its file replaces the base's {min(arm.replaces)}"
    if arm.adapter_of is not None and arm.own_copy:
        reason = f"it is an adapter of {arm.adapter_of}, which is loaded beside the base"
    if reason is None:
        return "one pass with the base, whose weights are read once; load it with `base_model=model`"
    ratio = base.parameters / max(arm.parameters, 1)
    if ratio >= _SMALL:
        return (
            f"it is {ratio:.0f} times smaller than the base, so for one text at a time let it draft: "
            f"`assistant_model=arm` (not one pass: {reason})"
        )
    return f"none: passes of its own, so a step costs what both models cost (not one pass: {reason})"


def serving(options: DoctorOptions) -> str:
    """Which class serves the models in vLLM, or why none does."""
    from ..integrations.vllm.composition import compose, open_part

    try:
        base, *arms = (open_part(name) for name in (options.model, *options.reward_model))
        found = compose(base, arms, options.alpha)
    except (ValueError, TypeError, OSError) as error:
        return f"not served: {' '.join(str(error).split())}"
    installed = "" if find_spec("vllm") else "; vLLM is not installed here (pip install 'genarm-hf[vllm]')"
    return f"served as {found.architecture}{installed}"


def what_to_type(options: DoctorOptions, arms: list[Outline]) -> str:
    """A command, and lines of Python, with the names and settings that were asked about."""
    alpha = [f"{value:g}" for value in options.alpha]
    command = ["genarm-hf generate", f"--model {options.model}", *(f"--reward-model {arm.name}" for arm in arms)]
    command += [f"--alpha {' '.join(alpha)}"] if alpha else []
    loads = [
        f"AutoregressiveRewardModel.from_pretrained({arm.name!r}).to(model.device)"
        if not arm.adapter_of or arm.own_copy
        else f"AutoregressiveRewardModel.from_pretrained({arm.name!r}, base_model=model)"
        for arm in arms
    ]
    strength = "" if not alpha else f", alpha={alpha[0] if len(alpha) == 1 else '[' + ', '.join(alpha) + ']'}"
    return "\n".join(
        [
            f'  {" ".join(command)} "Hello"',
            "",
            "  from genarm_hf import AutoregressiveRewardModel",
            "  from transformers import AutoModelForCausalLM, AutoTokenizer",
            f"  model = AutoModelForCausalLM.from_pretrained({options.model!r})",
            f"  tokenizer = AutoTokenizer.from_pretrained({options.model!r})",
            "  arms = [",
            *(f"      {load}," for load in loads),
            "  ]",
            '  inputs = tokenizer("Hello", return_tensors="pt").to(model.device)',
            f"  print(tokenizer.decode(model.generate(**inputs, reward_models=arms{strength})[0]))",
        ]
    )


def _count(number: int) -> str:
    return _scaled(number, ("", "K", "M", "B", "T"))


def _bytes(number: int) -> str:
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def _scaled(number: int, units: tuple[str, ...]) -> str:
    power = min((len(str(number)) - 1) // 3, len(units) - 1)
    return f"{number / 1000**power:.3g} {units[power]}".strip()
