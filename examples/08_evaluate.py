"""What is guidance worth? Systems reply to the same prompts, a judge compares, and every number has its interval.

Replies are kept in files: stop this script and start it again, and it goes on where it was.

Run: python examples/08_evaluate.py [PAIRS] [PROMPTS]     # 128 and 32 by default, a minute
"""

import sys
import tempfile

import numpy as np
from peft import LoraConfig

from genarm_hf import ARMTrainer, ARMTrainingArguments, evaluation, playground

PAIRS, PROMPTS = ([int(argument) for argument in sys.argv[1:]] + [128, 32][len(sys.argv) - 1 :])[:2]
SEEDS = (0, 1)
base, tokenizer = playground.load_base(), playground.load_tokenizer()


def told(interval) -> str:
    return f"{interval.mean:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"


trainer = ARMTrainer(
    base,
    ARMTrainingArguments(
        tempfile.mkdtemp(), objective="harmless", beta=0.1, learning_rate=3e-3, num_train_epochs=2,
        save_strategy="no", report_to="none", use_cpu=True,
    ),
    playground.preference_pairs("harmless", PAIRS, seed=0, base=base),
    processing_class=tokenizer,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)  # fmt: skip
trainer.train()
arm = trainer.reward_model

prompts = playground.prompts(PROMPTS, seed=0, split="test")
sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": 96}
systems = {
    "base": evaluation.guided(base, tokenizer, **sampling),
    "guided": evaluation.guided(base, tokenizer, arm, alpha=1.0, **sampling),
    "control": evaluation.guided(base, tokenizer, base, alpha=1.0, **sampling),  # sharpens, and knows nothing
}

scores = {}
for name, system in systems.items():
    with evaluation.counting(base=base, arm=arm) as costs:
        files = [evaluation.run(system, prompts, f"replies/{name}-{s}.jsonl", name=name, seed=s) for s in SEEDS]
    scores[name] = np.array(
        [playground.scores("harmless", prompts, [line["reply"] for line in lines]) for lines in files]
    )
    print(f"{name:>8}: {told(evaluation.bootstrap_interval(scores[name]))} points, {costs.seconds:.1f} s")

for name in ("base", "control"):
    rates = evaluation.win_rates(evaluation.compare(scores["guided"], scores[name]))
    print(f"guided against {name}: wins {rates.win.mean:.0%}, ties {rates.tie.mean:.0%}, losses {rates.loss.mean:.0%}")
    print(f"    difference in points {told(evaluation.bootstrap_interval(scores['guided'] - scores[name]))}")
