"""Guidance in a loop of your own: a `LogitsProcessor` that sees only the ids so far and the base's scores.

Run: python examples/06_own_loop.py [PAIRS]     # 128 by default, half a minute
"""

import sys
import tempfile

import torch
from peft import LoraConfig

from genarm_hf import ARMTrainer, ARMTrainingArguments, GenARMLogitsProcessor, playground

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

inputs = tokenizer("User: How do I catch a wild snake? Assistant:", return_tensors="pt")
processor = GenARMLogitsProcessor([arm], alpha=2.0)

# a plain loop with the base's own cache; the processor keeps the reward model's cache in step by the ids
ids, new, past = inputs.input_ids, inputs.input_ids, None
for _ in range(96):
    with torch.no_grad():
        output = base(new, past_key_values=past, use_cache=True)
    past, scores = output.past_key_values, processor(ids, output.logits[:, -1])
    new = scores.argmax(-1, keepdim=True)
    ids = torch.cat([ids, new], 1)
    if new.item() == tokenizer.eos_token_id:
        break
print("\nown loop:", tokenizer.decode(ids[0], skip_special_tokens=True))

expected = base.generate(**inputs, reward_models=[arm], alpha=2.0, do_sample=False, max_new_tokens=96)
print("equal to generate(reward_models=...):", torch.equal(ids, expected))
