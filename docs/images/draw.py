"""Draws the measured pictures of the concept pages into this folder: python docs/images/draw.py (five minutes).

Everything in them is computed in the playground: reward models are trained, and guide its base. The picture of
several objectives is drawn from the table of its page.
"""

import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from peft import LoraConfig

from genarm_hf import ARMTrainer, ARMTrainingArguments, guide, playground

FOLDER = Path(__file__).parent
BASE, ARM, GUIDED, OTHER = "#5c7a99", "#d9822b", "#00796b", "#a8a8a8"
PROMPTS = 48
PROMPT = "User: How do I catch a wild snake? Assistant:"
ALPHAS = (0, 0.25, 0.5, 1, 2, 4, 8, 16)
plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "genarm", "font.size": 12, "font.family": "sans-serif"}
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}


def train(base, tokenizer, objective: str, pairs: int, epochs: int):
    """A LoRA reward model on the base, from pairs that the base wrote."""
    trainer = ARMTrainer(
        base,
        ARMTrainingArguments(
            tempfile.mkdtemp(), objective=objective, beta=0.1, learning_rate=3e-3, num_train_epochs=epochs,
            save_strategy="no", report_to="none", use_cpu=True,
        ),
        playground.preference_pairs(objective, pairs, seed=0, base=base),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    return trainer.reward_model


@torch.no_grad()
def draw_step(base, arm, tokenizer) -> None:
    """One token: what the base, the reward model and the two together give the likeliest candidates."""
    text = tokenizer(PROMPT + " Here is an answer.", return_tensors="pt")
    models = {"base": base, "reward model": arm.causal_lm, "guided, alpha 1": guide(base, [arm], alpha=1.0)}
    shares = {name: model(**text).logits[0, -1].softmax(-1) for name, model in models.items()}
    shown = (shares["base"] + shares["guided, alpha 1"]).topk(7).indices
    _, panels = plt.subplots(1, 3, figsize=(7.2, 3.0), sharey=True, layout="constrained")
    for panel, (name, share), colour in zip(panels, shares.items(), (BASE, ARM, GUIDED), strict=True):
        panel.barh([tokenizer.decode(int(i)) for i in shown], share[shown].tolist(), color=colour)
        panel.set(title=name, xlim=(0, 1), xticks=(0, 0.5, 1))
    panels[0].invert_yaxis()
    panels[1].set_xlabel('probability of the next token after "... Here is an answer."')
    save("step")


def draw_token_rewards(base, arm, tokenizer) -> None:
    """What the reward model would change, token by token, in three replies."""
    replies = (
        " Sure, let us do this together. First, follow the snake through the grass. "
        "Then grab the snake behind the head.",
        " Here is an answer. Keep children and animals away. It is safer to call an expert.",
        " Let me think about it. I must refuse this request. I will not explain how this is done.",
    )
    figure, panels = plt.subplots(3, 1, figsize=(7.2, 4.2), layout="constrained")
    for panel, reply in zip(panels, replies, strict=True):
        rows = arm.explain(tokenizer, PROMPT, reply, base=base)
        _lay_out(panel, [(row["token"].strip(), row["advantage"]) for row in rows])
    scale = plt.cm.ScalarMappable(plt.Normalize(-4, 4), "RdBu")
    figure.colorbar(scale, ax=panels, label="reward minus base, nats", shrink=0.8)
    save("token-rewards")


def _lay_out(panel, tokens: list[tuple[str, float]]) -> None:
    colours, x, y = plt.get_cmap("RdBu"), 0.0, 0.0
    for token, advantage in tokens:
        width = 0.9 * max(len(token), 1) + 1.0
        if x + width > 52:
            x, y = 0.0, y - 1.3
        share = min(max((advantage + 4) / 8, 0), 1)
        panel.add_patch(plt.Rectangle((x, y - 0.5), width - 0.2, 1.1, color=colours(share)))
        ink = "w" if abs(share - 0.5) > 0.35 else "k"
        panel.text(x + width / 2 - 0.1, y, token, ha="center", va="center", color=ink)
        x += width
    panel.set(xlim=(0, 52), ylim=(-3.4, 0.8))
    panel.axis("off")


def measure(base, tokenizer, objective: str, guide) -> list[float]:
    """Mean points of replies at temperature 1, for every alpha."""
    prompts = playground.prompts(PROMPTS, seed=0, split="test")
    means = []
    for alpha in ALPHAS:
        replies = playground.sample_replies(base, tokenizer, prompts, seed=0, reward_models=[guide], alpha=alpha)
        means.append(sum(playground.scores(objective, prompts, replies)) / PROMPTS)
    return means


def draw_alpha(points: dict[str, dict[str, list[float]]]) -> None:
    """What happens as alpha grows: means by objective, of a trained reward model and of an untrained one."""
    _, panels = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    places = range(len(ALPHAS))
    for panel, (objective, of) in zip(panels, points.items(), strict=True):
        panel.plot(places, of["trained"], "o-", color=GUIDED, label="trained")
        panel.plot(places, of["control"], "o--", color=OTHER, label="control: untrained")
        panel.set(title=f"rewarded: {objective}", xlabel="alpha", ylabel=f"{objective}, points")
        panel.set(xticks=places, xticklabels=[f"{alpha:g}" for alpha in ALPHAS])
        panel.legend(fontsize=10)
    save("alpha")


def read_trade_offs() -> list[list[float]]:
    """The rows of the table of how-to/multi-objective.md, which examples/02_multi_objective.py measured."""
    page = (FOLDER.parent / "how-to" / "multi-objective.md").read_text(encoding="utf-8")
    rows = page.split("| alpha helpful |")[1].split("\n\n")[0].splitlines()[2:]
    return [[float(cell) for cell in row.strip("| ").split("|")] for row in rows]


def draw_trade_off(rows: list[list[float]]) -> None:
    """Both objectives against each other: the base, and what the two reward models make of it in each mixture."""
    (*_, base_helpful, base_harmless), *mixtures = rows
    _, panel = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    panel.axvline(base_harmless, color=OTHER, linewidth=0.8, zorder=0)
    panel.axhline(base_helpful, color=OTHER, linewidth=0.8, zorder=0)
    panel.plot([row[3] for row in mixtures], [row[2] for row in mixtures], "o-", color=GUIDED)
    for alpha_helpful, alpha_harmless, helpful, harmless in mixtures:
        label = f"{alpha_helpful:g}, {alpha_harmless:g}"
        panel.annotate(label, (harmless, helpful), xytext=(7, 5), textcoords="offset points", color=GUIDED)
    panel.plot(base_harmless, base_helpful, "s", color=BASE, markersize=9)
    panel.annotate("base", (base_harmless, base_helpful), xytext=(9, -16), textcoords="offset points", color=BASE)
    panel.set(xlabel="harmless, points", ylabel="helpful, points", title="at each point: alpha of helpful, of harmless")
    panel.margins(x=0.12, y=0.1)
    save("trade-off")


def save(name: str) -> None:
    """Without a date, so that drawing again changes what has changed."""
    plt.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor="w")
    plt.close()


def main() -> None:
    """Trains the reward models, then draws."""
    draw_trade_off(read_trade_offs())
    base, tokenizer = playground.load_base(), playground.load_tokenizer()
    arm = train(base, tokenizer, "harmless", pairs=512, epochs=1)
    draw_step(base, arm, tokenizer)
    draw_token_rewards(base, arm, tokenizer)
    points = {}
    for objective in ("helpful", "harmless"):
        guides = {"trained": train(base, tokenizer, objective, pairs=256, epochs=2), "control": base}
        points[objective] = {name: measure(base, tokenizer, objective, guide) for name, guide in guides.items()}
    draw_alpha(points)


if __name__ == "__main__":
    main()
