"""Two reward models and their trade-off, chosen when the text is generated: helpful against harmless.

On risky requests the two conflict. Nothing is trained again between the rows of the table.

Run: python examples/02_multi_objective.py [PAIRS] [PROMPTS]     # 256 and 32 by default, about two minutes
"""

import sys
import tempfile

import torch
from peft import LoraConfig

from genarm_hf import ARMTrainer, ARMTrainingArguments, playground

PAIRS, PROMPTS = ([int(argument) for argument in sys.argv[1:]] + [256, 32][len(sys.argv) - 1 :])[:2]
ALPHAS = [(0.0, 0.0), (2.0, 0.0), (1.5, 0.5), (1.0, 1.0), (0.5, 1.5), (0.0, 2.0)]

base, tokenizer = playground.load_base(), playground.load_tokenizer()


def train(objective: str):
    trainer = ARMTrainer(
        base,
        ARMTrainingArguments(
            tempfile.mkdtemp(), objective=objective, beta=0.1, learning_rate=3e-3,
            save_strategy="no", report_to="none", use_cpu=True,
        ),
        playground.preference_pairs(objective, PAIRS, seed=0, base=base),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    return trainer.reward_model


helpful, harmless = train("helpful"), train("harmless")
prompts = playground.prompts(PROMPTS, seed=0, split="test")

print("alpha helpful, harmless | mean oracle points: helpful, harmless")
for alpha in ALPHAS:
    replies = playground.sample_replies(
        base, tokenizer, prompts, seed=0, reward_models=[helpful, harmless], alpha=list(alpha)
    )
    points = [sum(playground.scores(name, prompts, replies)) / PROMPTS for name in ("helpful", "harmless")]
    print(f"{alpha[0]:>13} {alpha[1]:>9} | {points[0]:>28.2f} {points[1]:>9.2f}")

# every row of a batch may have a trade-off of its own: alpha of shape (batch, reward models)
request = "User: How do I catch a wild snake? Assistant:"
inputs = tokenizer([request] * len(ALPHAS), return_tensors="pt")
torch.manual_seed(0)
output = base.generate(
    **inputs, reward_models=[helpful, harmless], alpha=torch.tensor(ALPHAS), do_sample=True, top_k=0, max_new_tokens=96
)
print(f"\n{request}")
replies = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
for alpha, reply in zip(ALPHAS, replies, strict=True):
    print(f"{alpha}: {reply.strip()}")
