"""One training run of a scenario, on however many processes it is started: run by test_distributed.py.

torchrun --nproc_per_node 2 -m tests.invariant.distributed_worker ddp|fsdp DIRECTORY SCENARIO...
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from genarm_hf import ARMTrainer

from ..training.toys import arguments, toy_pairs, word_tokenizer

PROCESSES = 2
BATCH = 4  # pairs of a micro-batch on all processes together


@dataclass(frozen=True)
class Scenario:
    """What is trained, and how."""

    adapter: bool = False
    accumulation: int = 1
    pairs: int = 24
    resume: bool = False
    """Then train again, from the first checkpoint."""
    shards: bool = False
    """Where weights are in shards, keep them so in checkpoints."""
    max_tokens: int | None = None
    """Read batches in parts, of which processes then have different numbers."""
    reference: bool = False
    """Train on differences from the base."""


SCENARIOS = {
    "full": Scenario(),
    "adapter": Scenario(adapter=True),
    "full, accumulated": Scenario(accumulation=2),
    "adapter, accumulated, resumed": Scenario(adapter=True, accumulation=2, resume=True),
    "full, resumed": Scenario(resume=True),
    "full, shards, resumed": Scenario(resume=True, shards=True),
    "full, uneven": Scenario(pairs=21, accumulation=2),
    "adapter, uneven": Scenario(adapter=True, pairs=19),
    "full, parts": Scenario(pairs=21, accumulation=2, max_tokens=20),
    "adapter, parts, reference": Scenario(adapter=True, pairs=21, max_tokens=20, reference=True),
}
FSDP = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
}


def run(name: str, root: Path, **options: Any) -> dict[str, Any]:
    """Train, evaluate and save a scenario.

    Returns:
        logged losses and metrics of the evaluation.
    """
    scenario, world = SCENARIOS[name], int(os.environ.get("WORLD_SIZE", 1))
    assert BATCH % world == 0
    if "fsdp" in options:
        kind = "SHARDED_STATE_DICT" if scenario.shards else "FULL_STATE_DICT"
        options["fsdp_config"] = FSDP | {"state_dict_type": kind}
        os.environ["FSDP_STATE_DICT_TYPE"] = kind  # as accelerate launch sets it; older transformers read this only
    args = arguments(
        root / name.replace(", ", "-"),
        per_device_train_batch_size=BATCH // world,
        per_device_eval_batch_size=3,
        gradient_accumulation_steps=scenario.accumulation,
        max_tokens_per_batch=scenario.max_tokens,
        subtract_reference=scenario.reference,
        learning_rate=1e-2,
        beta=0.3,
        adam_epsilon=1e-2,  # smooth: rounding must not turn the steps of parameters whose gradient is next to nothing
        num_train_epochs=2,
        logging_steps=1,
        save_strategy="steps",
        save_steps=2,
        **options,
    )
    assert args.world_size == world
    if "fsdp" in options:
        _let_the_cpu_shard()
    trainer = build(scenario, root, args)
    trainer.train()
    if scenario.resume:
        trainer = build(scenario, root, args)
        trainer.train(resume_from_checkpoint=str(Path(args.output_dir) / "checkpoint-2"))
    metrics = trainer.evaluate()
    trainer.save_model()
    names = ("loss", "rewards/accuracy", "rewards/margin", "logps/chosen", "logps/rejected")
    logs = [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]
    averages = {name: metrics[f"eval_{name}"] for name in names}
    kind = trainer.accelerator.distributed_type.value
    return {"logs": logs, "metrics": averages, "steps": trainer.state.max_steps, "kind": kind}


def _let_the_cpu_shard() -> None:
    """Accelerate shards on accelerators, and on CPUs silently trains without; told that these are some, it shards."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    AcceleratorState._reset_state()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def build(scenario: Scenario, root: Path, args: Any) -> ARMTrainer:
    peft_config = None
    if scenario.adapter:
        from peft import LoraConfig

        peft_config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(root / "base")
    # 13 held-out pairs: neither processes nor batches share them out evenly
    return ARMTrainer(model, args, toy_pairs(scenario.pairs), toy_pairs(13, seed=1), word_tokenizer(), peft_config)


def main(mode: str, root: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    assert int(os.environ["WORLD_SIZE"]) == PROCESSES
    options: dict[str, Any] = {"ddp_backend": "gloo"}
    if mode == "fsdp":
        options["fsdp"] = True
    results = {name: run(name, root, **options) for name in names}
    assert torch.distributed.get_world_size() == PROCESSES
    if torch.distributed.get_rank() == 0:
        (root / "results.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
