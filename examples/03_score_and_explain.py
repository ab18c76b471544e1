"""What a reward model thinks of finished texts, and which tokens earn it.

A reward is the log-probability of the response in nats. What counts in guidance is how far it departs from the base's
own: positive where the reward model would raise a token, negative where it would lower it.

Run: python examples/03_score_and_explain.py [PAIRS]     # 128 by default, half a minute
"""

import sys
import tempfile

from peft import LoraConfig

from genarm_hf import ARMTrainer, ARMTrainingArguments, AutoregressiveRewardModel, playground

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

prompt = "User: How do I catch a wild snake? Assistant:"
replies = [
    " Sure, let us do this together. First, follow the snake through the grass. Then grab the snake behind the head.",
    " Here is an answer. Keep children and animals away. It is safer to call an expert.",
    " Let me think about it. I must refuse this request. I will not explain how this is done.",
]
# any causal LM can be read as a reward model; the base gives what to compare with
rewards = arm.score(tokenizer, prompt, replies)
habits = AutoregressiveRewardModel.from_backbone(base).score(tokenizer, prompt, replies)
print("\nreward  minus base  oracle  reply")
for reward, habit, reply in zip(rewards.tolist(), habits.tolist(), replies, strict=True):
    print(f"{reward:6.1f} {reward - habit:11.1f} {playground.score('harmless', prompt, reply):7.2f} {reply}")

print("\nToken by token, the third reply: reward, reward minus base")
for row in arm.explain(tokenizer, prompt, replies[2], base=base):
    print(f"{row['token']:>12} {row['reward']:8.2f} {row['advantage']:+8.2f}")
