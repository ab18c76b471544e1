"""What `genarm-hf demo` does, without a word printed: train a reward model, guide the base with it, measure.

All of it uses the public interface, as a user's own script would.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PrinterCallback, TrainerCallback

from .. import playground
from ..evaluation import log_ratios, mean_interval
from ..files import written_whole
from ..modeling_genarm import AutoregressiveRewardModel

MAX_NEW_TOKENS = 96  # no reply of the playground is longer
_SAMPLING: dict[str, Any] = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "max_new_tokens": MAX_NEW_TOKENS,
}


@dataclass(frozen=True)
class Training:
    """How the reward model is trained; the defaults suit the playground's base."""

    objective: str
    seed: int
    beta: float = 0.1
    learning_rate: float = 3e-3
    rank: int = 16
    batch_size: int = 8


@dataclass
class Guided:
    """Replies of the guided base at one alpha, a number for each reply, and what they cost.

    Attributes:
        alpha: guidance strength.
        replies: texts.
        oracle_rewards: exact scores in points.
        arm_rewards: log pi_r(reply | prompt) in nats.
        log_ratios: log pi_guided - log pi_base in nats; their mean estimates KL(guided || base).
        tokens: sampled, ends of text included.
        seconds: spent in `generate()`.
    """

    alpha: float
    replies: list[str] = field(default_factory=list)
    oracle_rewards: list[float] = field(default_factory=list)
    arm_rewards: list[float] = field(default_factory=list)
    log_ratios: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The row of the table, as it stands in `results.json`."""
        return {
            "alpha": self.alpha,
            "oracle_reward": asdict(mean_interval(self.oracle_rewards)),
            "arm_reward": asdict(mean_interval(self.arm_rewards)),
            "kl": asdict(mean_interval(self.log_ratios)),
            "tokens_per_second": self.tokens / self.seconds,
        }


def train(
    base: Any, tokenizer: Any, pairs: list[Any], options: Training, directory: Path, callback: TrainerCallback
) -> int:
    """Train one LoRA reward model on preference pairs and save it.

    Args:
        base: the frozen base; the adapter shares its weights and leaves it as it is.
        tokenizer: its tokenizer.
        pairs: rows with `prompt`, `chosen`, `rejected`.
        options: how.
        directory: where the reward model is saved; it appears when it is complete.
        callback: told of the progress.

    Returns:
        number of trained parameters.
    """
    from peft import LoraConfig

    from ..training import ARMTrainer

    lora = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng():
        torch.manual_seed(options.seed)  # the adapter is drawn before the Trainer seeds
        trainer = ARMTrainer(
            base,
            args=_arguments(options, scratch),
            train_dataset=pairs,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    with written_whole(directory) as draft:
        trainer.save_model(str(draft))
    return sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)


def _arguments(options: Training, scratch: str) -> Any:
    from ..training import ARMTrainingArguments

    return ARMTrainingArguments(
        output_dir=scratch,
        objective=options.objective,
        beta=options.beta,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=options.batch_size,
        warmup_steps=5,
        logging_steps=1,
        seed=options.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )


def load(directory: Path, base: Any) -> AutoregressiveRewardModel:
    """The saved reward model, in the way any transformers model is loaded; it shares the base's weights."""
    return AutoModel.from_pretrained(directory, base_model=base)


def untrained(base: Any) -> AutoregressiveRewardModel:
    """A reward model that has learned nothing: the base itself, which as a guide only sharpens the base."""
    return AutoregressiveRewardModel.from_backbone(base)


def pair_accuracy(arm: AutoregressiveRewardModel, tokenizer: Any, pairs: Sequence[Any]) -> float:
    """Share of pairs that a reward model ranks as the judge did."""
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (
        arm.score(tokenizer, prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected")
    )
    return float((chosen > rejected).float().mean())


def guide(
    base: Any,
    arm: AutoregressiveRewardModel,
    tokenizer: Any,
    prompts: Sequence[str],
    alpha: float,
    objective: str,
    seed: int,
    batch_size: int = 50,
    progress: Callable[[int], Any] = lambda replies: None,
) -> Guided:
    """Sample one reply a prompt from the guided base and measure it.

    Args:
        base: the frozen base.
        arm: the reward model.
        tokenizer: of both.
        prompts: held-out prompts.
        alpha: guidance strength.
        objective: whose oracle scores the replies.
        seed: of sampling.
        batch_size: prompts sampled at once.
        progress: told of the number of replies after each batch.
    """
    guided = Guided(alpha)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_size):
            batch = list(prompts[start : start + batch_size])
            _measure_batch(guided, base, arm, tokenizer, batch)
            progress(len(batch))
    guided.oracle_rewards = playground.scores(objective, prompts, guided.replies)
    return guided


def _measure_batch(
    guided: Guided, base: Any, arm: AutoregressiveRewardModel, tokenizer: Any, prompts: list[str]
) -> None:
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    started = time.perf_counter()
    output = base.generate(
        **inputs, reward_models=[arm], alpha=guided.alpha, return_dict_in_generate=True, output_logits=True, **_SAMPLING
    )
    guided.seconds += time.perf_counter() - started
    reply = output.sequences[:, inputs["input_ids"].shape[1] :]
    mask = generated(reply, tokenizer.eos_token_id)
    guided.tokens += int(mask.sum())
    guided.replies += tokenizer.batch_decode(reply, skip_special_tokens=True)
    policy = torch.stack(output.logits, 1).log_softmax(-1).gather(-1, reply[..., None]).squeeze(-1)
    attention_mask = torch.cat([inputs["attention_mask"], mask.long()], 1)
    of_base, of_arm = (
        model.token_rewards(output.sequences, attention_mask)[:, -reply.shape[1] :] for model in (untrained(base), arm)
    )
    guided.log_ratios += log_ratios(policy, of_base, mask).tolist()
    guided.arm_rewards += (of_arm * mask).sum(-1).tolist()


def generated(ids: Tensor, eos: int) -> Tensor:
    """Which of the new tokens `(batch, length)` were generated: all up to the first end of text, itself included."""
    ends = (ids == eos).long()
    return ends.cumsum(-1) - ends == 0
