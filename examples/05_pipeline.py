"""Reward models in a pipeline: at init or per call, and with their verdict on each reply.

Run: python examples/05_pipeline.py [PAIRS]     # 128 by default, half a minute
"""

import sys
import tempfile

from peft import LoraConfig
from transformers import pipeline, set_seed

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

prompts = playground.prompts(4, seed=2, split="test")
sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": 96, "return_full_text": False}

# the task that transformers knows: what it does not know, it hands on to generate()
writer = pipeline("text-generation", model=base, tokenizer=tokenizer, reward_models=[arm], alpha=1.0)
set_seed(0)
guided = writer(prompts, batch_size=4, **sampling)
set_seed(0)
unguided = writer(prompts, batch_size=4, reward_models=[], **sampling)  # an empty list switches guidance off
for prompt, (without,), (with_arm,) in zip(prompts, unguided, guided, strict=True):
    print(f"\n{prompt}\n  alone: {without['generated_text']}\n  guided: {with_arm['generated_text']}")

# our own task also says what each reward model gives the reply: several replies, best first
judge = pipeline("reward-guided-generation", model=base, tokenizer=tokenizer, reward_models=[arm], alpha=1.0)
print(f"\nfour replies to: {prompts[0]}")
for record in sorted(judge(prompts[0], num_return_sequences=4, **sampling), key=lambda record: -record["rewards"][0]):
    print(f"{record['rewards'][0]:8.2f} nats {record['generated_text']}")
