"""`genarm-hf demo`: the whole idea, live, in a couple of minutes on a laptop's CPU.

A reward model is trained on preference pairs, saved, loaded through `AutoModel`, and guides a frozen base; the oracle
of the playground says what that was worth.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .files import check_place
from .loading import quiet
from .parsing import CommandParser, UsageError, check_seed, parse_numbers
from .text import paragraph

if TYPE_CHECKING:
    from .experiment import Guided

_STEPS = 5
_MOST_HELD_OUT = 64  # pairs to see how well the reward model ranks what it was not trained on


@dataclass
class DemoOptions:
    """What may be varied."""

    objective: Literal["harmless", "helpful", "brief"] = field(
        default="harmless", metadata={"help": "what the reward model is to reward"}
    )
    output: str = field(
        default="demo-output", metadata={"help": "folder for the reward model, numbers and figure", "metavar": "DIR"}
    )
    pairs: int = field(default=600, metadata={"help": "preference pairs to train on", "metavar": "N"})
    prompts: int = field(default=100, metadata={"help": "held-out prompts to answer at each alpha", "metavar": "N"})
    alphas: str = field(default="0,0.5,1,2", metadata={"help": "guidance strengths to compare", "metavar": "A,A"})
    beta: float = field(default=0.1, metadata={"help": "inverse temperature of the training loss", "metavar": "B"})
    learning_rate: float = field(default=3e-3, metadata={"help": "learning rate of the training", "metavar": "LR"})
    samples: int = field(default=2, metadata={"help": "prompts whose replies are shown", "metavar": "N"})
    seed: int = field(default=0, metadata={"help": "seed of everything that is drawn", "metavar": "S"})


def parser() -> CommandParser:
    """The command line of `genarm-hf demo`."""
    return CommandParser(
        DemoOptions,
        "demo",
        "Train a reward model on preference pairs drawn from a small base model, save it, load it through AutoModel, "
        "let it guide the frozen base, and measure how the reward rises with alpha.",
    )


def run(options: DemoOptions) -> None:
    """Run the demo and print it step by step."""
    alphas = _check(options)
    with quiet(), _one_thread():
        _tell(options, alphas)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing by a second thread, and lose much by waiting for it where cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check(options: DemoOptions) -> list[float]:
    """The alphas, and everything that can be wrong with the options before minutes are spent."""
    alphas = parse_numbers("--alphas", options.alphas)
    if not all(abs(alpha) < float("inf") for alpha in alphas):
        raise UsageError(f"`--alphas` must be finite, got {options.alphas}.")
    for name, least in (("pairs", 1), ("prompts", 2), ("samples", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"`--{name}` must be at least {least}, got {getattr(options, name)}.")
    check_seed("--seed", options.seed)
    for name in ("beta", "learning_rate"):
        if not 0 < getattr(options, name) < float("inf"):
            raise UsageError(f"`--{name.replace('_', '-')}` must be a positive number, got {getattr(options, name)}.")
    check_place("--output", options.output)
    output, arm = Path(options.output), _arm_directory(options)
    if output.exists() and not output.is_dir():
        raise UsageError(f"`--output` must be a folder, and {options.output!r} is a file.")
    if arm.exists() and not (arm / "adapter_config.json").is_file():
        raise UsageError(f"{str(arm)!r} exists and is no reward model; name another `--output`.")
    return alphas


def _arm_directory(options: DemoOptions) -> Path:
    return Path(options.output) / f"arm-{options.objective}"


def _tell(options: DemoOptions, alphas: Sequence[float]) -> None:
    from .. import playground
    from . import experiment, report

    started = time.perf_counter()
    base, tokenizer = playground.load_base(), playground.load_tokenizer()
    _step(
        1, f"The base, a language model of {base.num_parameters() / 1e6:.1f}M parameters. It stays frozen throughout."
    )
    pairs, held_out = _draw_pairs(options, base)
    directory = _arm_directory(options)
    _train(options, base, tokenizer, pairs, directory)
    _step(4, f'Loading it back: AutoModel.from_pretrained("{directory}", base_model=base)')
    arm = experiment.load(directory, base)
    accuracy = experiment.pair_accuracy(arm, tokenizer, held_out)
    print(f"    It ranks {accuracy:.0%} of {len(held_out)} held-out pairs as the judge did.")
    prompts = playground.prompts(options.prompts, options.seed, split="test")
    guided, control = _guide(options, alphas, base, arm, tokenizer, prompts)
    facts = {"options": vars(options), "base": base.config._name_or_path, "reward_model": str(directory)}
    facts |= {"held_out_pair_accuracy": accuracy, "control": control.summary()}
    results = report.results(facts, guided, prompts)
    report.show(results, options.samples)
    report.write(Path(options.output), results)
    print(f"\nAll of this took {time.perf_counter() - started:.0f} seconds.\n")
    print(report.next_steps(results))


def _step(number: int, text: str) -> None:
    print(f"\n{paragraph(f'{number}/{_STEPS} {text}', hanging=4)}", flush=True)


def _draw_pairs(options: DemoOptions, base: Any) -> tuple[list[Any], list[Any]]:
    """Pairs to train on, and pairs held out."""
    from ..playground import preference_pairs

    total = options.pairs + min(_MOST_HELD_OUT, max(options.pairs // 5, 2))
    judge = f"a noisy judge who prefers the more {options.objective} one"
    _step(2, f"Drawing {total} preference pairs: two replies of the base to a prompt, and {judge}.")
    drawn = preference_pairs(options.objective, total, options.seed, base, show_progress=True)
    # an early end of text is unlikely but possible, and nothing can be learned from an empty reply
    pairs = [pair for pair in drawn if pair["chosen"] and pair["rejected"]]
    for name, text in pairs[0].items():
        print(paragraph(f"{name}: {text}", indent=4, hanging=len(name) + 2))
    return pairs[: options.pairs], pairs[options.pairs :]


def _train(options: DemoOptions, base: Any, tokenizer: Any, pairs: list[Any], directory: Path) -> None:
    from . import experiment

    _step(3, f"Training a LoRA reward model to put chosen above rejected (beta {options.beta:g}, one epoch).")
    training = experiment.Training(options.objective, options.seed, options.beta, options.learning_rate)
    size = experiment.train(base, tokenizer, pairs, training, directory, training_bar())
    print(f"    {size:,} parameters trained, saved to {directory}")


def training_bar() -> Any:
    """A progress bar that shows loss and accuracy as they run."""
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class TrainingBar(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(total=state.max_steps, unit="step")

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            shown = {name.removeprefix("rewards/"): logs[name] for name in ("loss", "rewards/accuracy") if name in logs}
            self.bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items()}, refresh=False)
            self.bar.update(state.global_step - self.bar.n)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    return TrainingBar()


def _guide(
    options: DemoOptions, alphas: Sequence[float], base: Any, arm: Any, tokenizer: Any, prompts: list[str]
) -> tuple[list["Guided"], "Guided"]:
    """What the reward model makes of the base at each alpha, and what an untrained one makes of it at the largest."""
    from tqdm.auto import tqdm

    from . import experiment

    _step(5, f"Guiding the frozen base on {len(prompts)} held-out prompts, sampling at temperature 1.")
    with tqdm(total=len(prompts) * (len(alphas) + 1), unit="reply") as bar:

        def measure(reward_model: Any, alpha: float) -> "Guided":
            return experiment.guide(
                base, reward_model, tokenizer, prompts, alpha, options.objective, options.seed, progress=bar.update
            )

        return [measure(arm, alpha) for alpha in alphas], measure(experiment.untrained(base), max(alphas))
