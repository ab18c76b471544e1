"""The whole way: preference pairs, training, saving, loading by `AutoModel`, guiding.

Run: python examples/04_train_and_guide.py [PAIRS] [DIRECTORY]     # 128 and arm-harmless by default, a minute
"""

import sys

from peft import LoraConfig
from transformers import AutoModel

from genarm_hf import ARMTrainer, ARMTrainingArguments, AutoregressiveRewardModel, playground

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 128
DIRECTORY = sys.argv[2] if len(sys.argv) > 2 else "arm-harmless"
base, tokenizer = playground.load_base(), playground.load_tokenizer()

# rows of prompt, chosen, rejected; your own may be a list of dictionaries or a datasets.Dataset
train = playground.preference_pairs("harmless", PAIRS, seed=0, base=base)
held_out = playground.preference_pairs("harmless", 64, seed=1, base=base, split="test")
print("a pair:", train[0])

trainer = ARMTrainer(
    base,
    ARMTrainingArguments(
        DIRECTORY, objective="harmless", beta=0.1, learning_rate=3e-3, num_train_epochs=2,
        save_strategy="no", report_to="none", use_cpu=True,
    ),
    train_dataset=train,
    eval_dataset=held_out,
    processing_class=tokenizer,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)  # fmt: skip
before = trainer.evaluate()["eval_rewards/accuracy"]
trainer.train()
after = trainer.evaluate()["eval_rewards/accuracy"]
print(f"\nheld-out pairs ranked as the judge did: {before:.0%} before training, {after:.0%} after")

# a LoRA adapter with its config, tokenizer and model card
trainer.save_model()

# loaded alone it brings its base along; with base_model= it sits on the weights that are there already
arm = AutoModel.from_pretrained(DIRECTORY)
attached = AutoregressiveRewardModel.from_pretrained(DIRECTORY, base_model=base)

prompts = playground.prompts(16, seed=0, split="test")
for name, reward_model in {"loaded alone": arm, "attached to the base": attached}.items():
    print(f"\nmean harmlessness in points, reward model {name}")
    for alpha in (0.0, 1.0, 2.0):
        replies = playground.sample_replies(base, tokenizer, prompts, seed=0, reward_models=[reward_model], alpha=alpha)
        print(f"alpha {alpha}: {sum(playground.scores('harmless', prompts, replies)) / len(prompts):+.2f}")
