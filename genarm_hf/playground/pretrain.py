"""Rebuild the playground's base model, or make a weaker or stronger one: `python -m genarm_hf.playground.pretrain`.

A small Llama learns the generator's text (prompt and reply tokens), and is saved in bfloat16 together with the
tokenizer. It starts from scratch; the strong one starts as a wider copy of the packaged base (`growth`). The run is
deterministic in its seed and thread count. Texts are drawn fresh, never repeated, and batched by length, so hardly any
of the compute goes to padding.
"""

import argparse
import copy
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .parsing import count_tokens
from .tokenization import build_tokenizer
from .world import Split, log_prob, sample_prompts, sample_reply

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

BASE_DIRECTORY = Path(__file__).parent / "base"
_BATCHES_PER_SORT = 32  # texts are sorted by length within this many batches, then the batches are shuffled


@dataclass(frozen=True)
class Size:
    """Shape of a model, and the training it needs.

    Attributes:
        hidden_size: its width; heads have 32 of it (which vLLM supports too), the MLP twice as much.
        layers: number of them.
        steps: of training, 32 texts each.
        learning_rate: at its highest.
        grown: starts as a wider copy of the packaged base, and not from scratch.
    """

    hidden_size: int
    layers: int
    steps: int
    learning_rate: float
    grown: bool = False


SIZES = {
    "weak": Size(hidden_size=96, layers=3, steps=400, learning_rate=6e-3),
    "base": Size(hidden_size=192, layers=4, steps=2000, learning_rate=3e-3),
    "strong": Size(hidden_size=384, layers=4, steps=60, learning_rate=2e-4, grown=True),
}
"""0.3M, 1.6M (the packaged one) and 6.1M parameters."""


def build_model(tokenizer: "PreTrainedTokenizerBase", size: Size = SIZES["base"]) -> "LlamaForCausalLM":
    """A randomly initialised model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        intermediate_size=2 * size.hidden_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden_size // 32,
        num_key_value_heads=size.hidden_size // 32,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.max_new_tokens = 96  # no reply is longer
    return model


def sample_texts(n: int, seed: int, split: Split = "train") -> list[tuple[str, str]]:
    """Draw `n` pairs of prompt and reply from the generator; prompts repeat once all of a split were used."""
    rng = random.Random(seed)
    pool = sample_prompts(min(n, 4096), seed, split)
    prompts = [pool[index % len(pool)] for index in range(n)]
    return [(prompt, sample_reply(prompt, rng)) for prompt in prompts]


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids `(batch, length)` and labels of the same shape, -100 where nothing is to be learned."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def collate(texts: list[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase", replies_only: bool = False) -> Batch:
    """Tokenise prompt-reply pairs, each with an end of text."""
    ids = tokenizer([f"{prompt} {reply}" for prompt, reply in texts])["input_ids"]
    starts = [count_tokens(prompt) if replies_only else 0 for prompt, _ in texts]
    rows = [torch.tensor([*row, tokenizer.eos_token_id]) for row in ids]
    labels = [row.masked_fill(torch.arange(len(row)) < start, -100) for row, start in zip(rows, starts, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id), pad(labels, True, -100))


def batches(tokenizer: "PreTrainedTokenizerBase", steps: int, batch_size: int, seed: int) -> Iterator[Batch]:
    """`steps` batches of fresh text, each of texts of about the same length."""
    shuffler = random.Random(seed)
    for start in range(0, steps, _BATCHES_PER_SORT):
        texts = sample_texts(_BATCHES_PER_SORT * batch_size, seed * 1_000_003 + start)
        texts.sort(key=lambda pair: count_tokens(pair[0]) + count_tokens(pair[1]))
        chunks = [texts[first : first + batch_size] for first in range(0, len(texts), batch_size)]
        shuffler.shuffle(chunks)
        yield from (collate(chunk, tokenizer) for chunk in chunks[: steps - start])


def summed_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of the labels of a batch, summed, in nats."""
    # Right padding needs no attention mask: no real token looks ahead, and padded positions have no label.
    logits = model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum")


def _lr_factor(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@dataclass(frozen=True)
class Fit:
    """How well a model knows the generator, on held-out replies: both perplexities per token, end of text included."""

    perplexity: float
    entropy_perplexity: float

    @property
    def ratio(self) -> float:
        """Model over generator; 1 is perfect."""
        return self.perplexity / self.entropy_perplexity


@torch.no_grad()
def evaluate(model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase", n: int = 512, seed: int = 1) -> Fit:
    """Compare a model's perplexity on `n` held-out replies with the generator's own on the same texts."""
    texts = sample_texts(n, seed, "test")
    exact = -sum(log_prob(prompt, reply) for prompt, reply in texts)
    tokens = sum(count_tokens(reply) + 1 for _, reply in texts)
    texts.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    chunks = [texts[first : first + 64] for first in range(0, n, 64)]
    nats = sum(float(summed_loss(model, collate(chunk, tokenizer, replies_only=True))) for chunk in chunks)
    return Fit(math.exp(nats / tokens), math.exp(exact / tokens))


def save(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", output: Path) -> Fit:
    """Save a bfloat16 copy of the model and the tokenizer; returns how well the rounded copy does."""
    rounded = copy.deepcopy(model).bfloat16()
    rounded.save_pretrained(output)
    # Stored small, used in float32: the dtype a plain `from_pretrained` follows is the one in the configuration.
    config = json.loads((output / "config.json").read_text())
    (output / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
    tokenizer.save_pretrained(output)
    return evaluate(rounded.float().eval(), tokenizer)


def _initial(tokenizer: "PreTrainedTokenizerBase", size: Size, seed: int) -> "LlamaForCausalLM":
    torch.manual_seed(seed)
    if not size.grown:
        return build_model(tokenizer, size)
    from . import load_base
    from .growth import widen

    return widen(load_base(), seed)


def pretrain(
    size: str,
    output: Path,
    steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float | None = None,
    seed: int = 0,
    save_every: int = 0,
) -> tuple["LlamaForCausalLM", Fit]:
    """Train a model and save it; see the module's command for the arguments."""
    from tqdm.auto import tqdm

    steps = SIZES[size].steps if steps is None else steps
    learning_rate = SIZES[size].learning_rate if learning_rate is None else learning_rate
    tokenizer = build_tokenizer()
    model = _initial(tokenizer, SIZES[size], seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, steps, min(200, steps // 10)))
    progress = tqdm(batches(tokenizer, steps, batch_size, seed), total=steps, unit="step")
    for step, batch in enumerate(progress, 1):
        loss = summed_loss(model, batch) / (batch.labels[:, 1:] != -100).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
        if save_every and step % save_every == 0 and step < steps:
            print(f"\nstep {step}: perplexity / exact = {save(model, tokenizer, output).ratio:.4f}", flush=True)
    return model, save(model.eval(), tokenizer, output)


def main(argv: list[str] | None = None) -> int:
    """Parse, pretrain, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="base", help="0.3M, 1.6M or 6.1M parameters")
    parser.add_argument("--output", type=Path, help="where to save (the base: in the package, if not said otherwise)")
    parser.add_argument("--steps", type=int, help="default: what the size needs")
    parser.add_argument("--batch-size", type=int, default=32, help="texts a step")
    parser.add_argument("--learning-rate", type=float, help="default: the size's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=0, help="also save after so many steps (0: only at the end)")
    arguments = vars(parser.parse_args(argv))
    if arguments["output"] is None and arguments["size"] != "base":
        parser.error(f"--size {arguments['size']} needs --output: the package has the base only")
    arguments["output"] = arguments["output"] or BASE_DIRECTORY
    torch.set_num_threads(arguments.pop("threads"))
    model, fit = pretrain(**arguments)
    print(
        f"{model.num_parameters():,} parameters; held-out reply perplexity {fit.perplexity:.4f}, "
        f"generator {fit.entropy_perplexity:.4f}, ratio {fit.ratio:.4f}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
