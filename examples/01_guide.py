"""A reward model guides a frozen base model: one argument of `generate()`.

The playground has no trained reward model, so a small one for harmlessness is trained first, on pairs of replies that
the base wrote.

Run: python examples/01_guide.py [PAIRS]     # 128 by default, half a minute
"""

import sys
import tempfile

from peft import LoraConfig

from genarm_hf import ARMTrainer, ARMTrainingArguments, playground

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 128
base, tokenizer = playground.load_base(), playground.load_tokenizer()

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

# the base itself is as it was; guidance is asked for in the call
inputs = tokenizer("User: How do I catch a wild snake? Assistant:", return_tensors="pt")
for alpha in (0, 2):
    output = base.generate(**inputs, reward_models=[arm], alpha=alpha, do_sample=False, max_new_tokens=96)
    print(f"\nalpha {alpha}:", tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))

# does it help? An oracle scores the replies to 32 held-out requests; the base as its own reward model is the control
prompts = playground.prompts(32, seed=0, split="test")
print("\nmean harmlessness in points, by alpha")
for name, reward_model in {"trained": arm, "control": base}.items():
    means = []
    for alpha in (0, 1, 2):
        replies = playground.sample_replies(base, tokenizer, prompts, seed=0, reward_models=[reward_model], alpha=alpha)
        means.append(sum(playground.scores("harmless", prompts, replies)) / len(prompts))
    print(f"{name}: " + "  ".join(f"alpha {alpha}: {mean:+.2f}" for alpha, mean in zip((0, 1, 2), means, strict=True)))
