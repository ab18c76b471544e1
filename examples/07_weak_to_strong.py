"""Weak to strong: a smaller model learns the preference, guides the larger base, and drafts for it.

The smaller model is the playground's base without its last layer: another shape, weights of its own, a worse writer.

Run: python examples/07_weak_to_strong.py [PAIRS] [PROMPTS]     # 128 and 24 by default, a minute
"""

import sys
import tempfile

import torch

from genarm_hf import ARMTrainer, ARMTrainingArguments, ImplicitRewardModel, playground

PAIRS, PROMPTS = ([int(argument) for argument in sys.argv[1:]] + [128, 24][len(sys.argv) - 1 :])[:2]
base, tokenizer = playground.load_base(), playground.load_tokenizer()


def load_weak():
    model = playground.load_base()
    model.model.layers = model.model.layers[:3]
    model.config.num_hidden_layers = 3
    return model.eval()


trainer = ARMTrainer(
    load_weak(),
    ARMTrainingArguments(
        tempfile.mkdtemp(), objective="harmless", beta=0.1, learning_rate=1e-3, num_train_epochs=2,
        save_strategy="no", report_to="none", use_cpu=True,
    ),
    playground.preference_pairs("harmless", PAIRS, seed=0, base=base),
    processing_class=tokenizer,
)  # fmt: skip
trainer.train()  # all weights, as no peft_config says otherwise
arm = trainer.reward_model

# the weak model before training shows what sharpening gives; the difference of the two, what training changed
guides = {"trained": arm, "control": load_weak(), "change": ImplicitRewardModel(arm, load_weak())}
prompts = playground.prompts(PROMPTS, seed=0, split="test")
print("\nmean harmlessness in points, by alpha")
for name, guide in guides.items():
    print(f"{name:>8}", end="")
    for alpha in (0, 1, 2):
        replies = playground.sample_replies(base, tokenizer, prompts, seed=0, reward_models=[guide], alpha=alpha)
        print(f"  alpha {alpha}: {sum(playground.scores('harmless', prompts, replies)) / len(prompts):+.2f}", end="")
    print()

# the reward model drafts, and what it computed for that counts for the check too
inputs = tokenizer(prompts[0], return_tensors="pt")
guidance = {"reward_models": [arm], "alpha": 1.0, "do_sample": False, "max_new_tokens": 64}
plain = base.generate(**inputs, **guidance)
drafted = base.generate(**inputs, **guidance, assistant_model=arm, return_dict_in_generate=True)
counts, new = drafted.speculation, plain.shape[1] - inputs.input_ids.shape[1]
print(f"\n{new} tokens in {counts.base_forwards} base forwards, {counts.acceptance:.0%} of the drafts accepted")
print("equal to decoding without drafts:", torch.equal(drafted.sequences, plain))
