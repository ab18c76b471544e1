"""What a training step costs: `ARMTrainer`, the plain loop that most people write, and TRL, on the same pairs.

All train the same LoRA on the same model with the same loss, step for step: TRL's `DPOTrainer` with reference
log-probabilities of zero has the loss of a reward model. A step is forward and backward of a batch, with whatever each
trainer does around them.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from tempfile import mkdtemp
from typing import Any

import torch

from .memory import in_fresh_process, peak_increase
from .shapes import SHAPES, parameters
from .timing import alternate, ratio

CASES = (("15M", 8), ("26M", 8))
"""`(shape, pairs in a batch)`: one whose work is the output head, and one whose work is the layers."""

# tokens of HH-RLHF (helpful and harmless, Llama tokens): median and mean
_HH_LENGTHS = {"prompt_ids": (112, 145), "chosen_ids": (37, 54), "rejected_ids": (36, 52)}
_LONGEST = 700
_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")  # the new name first
BETA = 0.05

Pair = dict[str, list[int]]
Step = Callable[[list[Pair]], float]


def hh_like_pairs(count: int, vocab: int, seed: int = 0) -> list[Pair]:
    """Pairs of random tokens with the lengths of HH-RLHF: log-normal, by the median and mean of each part."""
    generator = random.Random(seed)

    def tokens(median: float, mean: float) -> list[int]:
        size = generator.lognormvariate(math.log(median), math.sqrt(2 * math.log(mean / median)))
        return [generator.randrange(3, vocab) for _ in range(min(max(round(size), 2), _LONGEST))]

    return [{name: tokens(*sizes) for name, sizes in _HH_LENGTHS.items()} for _ in range(count)]


def batches(pairs: Sequence[Pair], size: int, grouped: bool) -> list[list[Pair]]:
    """Batches in the order of the pairs, or of pairs of similar length."""
    if grouped:
        pairs = sorted(pairs, key=lambda pair: sum(map(len, pair.values())))
    return [list(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def bench_train(
    cases: Sequence[tuple[str, int]] = CASES,
    pairs: int = 32,
    repeats: int = 3,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    progress: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Passes over the same pairs, in turn, and the peak memory of the batch with the longest pair.

    Args:
        cases: see `CASES`.
        pairs: how many; a multiple of the batch.
        repeats: rounds that count.
        dtype: of the model.
        device: where it is.
        progress: called after each pass.

    Yields:
        a row for every system of every case: pairs per second, peak memory increase in MB, how many times as fast as
        the plain loop and as TRL. TRL is left out where it is not installed.
    """
    for shape, size in cases:
        data = hh_like_pairs(pairs, SHAPES[shape].vocab)
        runs = {}
        for name in _systems():
            step = build(name, shape, size, dtype, device)
            step(_small(data[:size]))
            for grouped in (False, True):
                runs[_label(name, grouped)] = _pass(step, batches(data, size, grouped))
        times = alternate(runs, repeats, warmup=0, progress=progress)
        memory = {name: peak_memory(name, shape, size, dtype, device) for name in _systems()}
        for label, name, grouped in [(_label(n, g), n, g) for n in _systems() for g in (False, True)]:
            yield {
                "shape": shape,
                "parameters": parameters(SHAPES[shape].build(0, dtype, "meta")),
                "vocab": SHAPES[shape].vocab,
                "batch": size,
                "dtype": str(dtype).removeprefix("torch."),
                "system": label,
                "pairs_per_second": ratio([float(pairs)] * repeats, times[label])["median"],
                "memory_mb": None if grouped else memory[name],
                "of_plain": ratio(times[_label("plain loop", False)], times[label]),
                "of_trl": ratio(times[_label("TRL", False)], times[label]) if "TRL" in _systems() else None,
            }


def _label(name: str, grouped: bool) -> str:
    return f"{name}, grouped by length" if grouped else name


def _systems() -> list[str]:
    return ["ARMTrainer", "plain loop", *(["TRL"] if find_spec("trl") else [])]


def _pass(step: Step, data: list[list[Pair]]) -> Callable[[], None]:
    def run() -> None:
        for batch in data:
            step(batch)

    return run


def build(name: str, shape: str, size: int, dtype: torch.dtype, device: str) -> Step:
    """A function that trains on one batch and returns its loss.

    Args:
        name: one of `_systems()`.
        shape: of the model.
        size: pairs of a batch.
        dtype: of the model.
        device: where it is.
    """
    from peft import LoraConfig

    model = SHAPES[shape].build(0, dtype, device).train()
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    makers: dict[str, Any] = {"ARMTrainer": _arm_trainer, "plain loop": _plain_loop, "TRL": _trl}
    return makers[name](model, lora, size, dtype, device)


def _options(size: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    return {
        "output_dir": mkdtemp(),
        "per_device_train_batch_size": size,
        "beta": BETA,
        "use_cpu": device == "cpu",
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _arm_trainer(model: Any, lora: Any, size: int, dtype: torch.dtype, device: str) -> Step:
    from ..training import ARMTrainer, ARMTrainingArguments

    args = ARMTrainingArguments(**_options(size, dtype, device))
    trainer = ARMTrainer(model, args, hh_like_pairs(size, model.config.vocab_size), peft_config=lora)

    def step(batch: list[Pair]) -> float:
        loss = trainer.training_step(trainer.model, trainer.data_collator(batch), len(batch))
        trainer.model.zero_grad()
        return float(loss)

    return step


def _plain_loop(model: Any, lora: Any, size: int, dtype: torch.dtype, device: str) -> Step:
    """Chosen and rejected concatenated, padded to the longest, all logits."""
    from peft import get_peft_model

    peft_model = get_peft_model(model, lora)

    def step(batch: list[Pair]) -> float:
        rows = [(pair["prompt_ids"], pair[name]) for name in ("chosen_ids", "rejected_ids") for pair in batch]
        width = max(len(prompt) + len(response) for prompt, response in rows)
        ids = torch.tensor([[*p, *r, *[0] * (width - len(p) - len(r))] for p, r in rows], device=device)
        sizes = torch.tensor([[len(p), len(p) + len(r)] for p, r in rows], device=device)
        places = torch.arange(width, device=device)
        attended, response = places < sizes[:, 1:], (places >= sizes[:, :1]) & (places < sizes[:, 1:])
        logits = peft_model(input_ids=ids, attention_mask=attended.long(), use_cache=False).logits
        logps = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        chosen, rejected = (logps * response[:, 1:]).sum(-1).chunk(2)
        loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
        loss.backward()
        peft_model.zero_grad()
        return loss.item()

    return step


def _trl(model: Any, lora: Any, size: int, dtype: torch.dtype, device: str) -> Step:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class ReferenceFree(DPOTrainer):
        """Reads ids as they are, with reference log-probabilities of zero."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    def with_reference(batch: list[Pair]) -> list[dict[str, Any]]:
        return [{**pair, "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0} for pair in batch]

    # on by default in TRL, and half the speed
    checkpointing = {name: False for name in _CHECKPOINTING if name in DPOConfig.__dataclass_fields__}
    options = _options(size, dtype, device) | dict(list(checkpointing.items())[:1])
    args = DPOConfig(**options, precompute_ref_log_probs=True, max_length=None)
    data = Dataset.from_list(with_reference(hh_like_pairs(size, model.config.vocab_size)))
    trainer = ReferenceFree(model, None, args, train_dataset=data, processing_class=_no_tokenizer(), peft_config=lora)
    trainer.current_gradient_accumulation_steps = 1

    def step(batch: list[Pair]) -> float:
        loss = trainer.training_step(trainer.model, trainer.data_collator(with_reference(batch)))
        trainer.model.zero_grad()
        return float(loss)

    return step


def _no_tokenizer() -> Any:
    """A tokenizer for a trainer that insists on one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


# ---------------------------------------------------------------------- memory


def peak_memory(name: str, shape: str, size: int, dtype: torch.dtype, device: str) -> float:
    """Most memory that a step takes above what model and trainer hold, in MB; `nan` where it cannot be measured."""
    case = (name, shape, size, dtype, device)
    return (in_fresh_process(_peak, *case) if device == "cpu" else _peak(*case)) / 2**20


def _longest_batch(shape: str, size: int) -> list[Pair]:
    """The batch with the longest pair of those that are timed."""
    data = batches(hh_like_pairs(32, SHAPES[shape].vocab), size, grouped=False)
    return max(data, key=lambda batch: max(sum(map(len, pair.values())) for pair in batch))


def _small(batch: list[Pair]) -> list[Pair]:
    return [{name: ids[:2] for name, ids in pair.items()} for pair in batch]


def _peak(name: str, shape: str, size: int, dtype: torch.dtype, device: str) -> float:
    step = build(name, shape, size, dtype, device)
    step(_small(_longest_batch(shape, size)))  # what is made once
    return peak_increase(lambda: step(_longest_batch(shape, size)), device)
