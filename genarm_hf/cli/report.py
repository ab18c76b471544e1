"""What `genarm-hf demo` found, for people and for programs: a table, replies side by side, a figure, `results.json`."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from ..files import written_whole
from .text import paragraph, side_by_side, table

if TYPE_CHECKING:
    from .experiment import Guided

KL_ESTIMATOR = "mean of log pi_guided(reply) - log pi_base(reply) over the sampled replies (unbiased Monte Carlo)"


def results(facts: dict[str, Any], guided: Sequence["Guided"], prompts: Sequence[str]) -> dict[str, Any]:
    """Everything that is reported, as `results.json` holds it.

    Args:
        facts: how it came about: `options`, `base`, `reward_model` and whatever else.
        guided: what was measured, one per alpha.
        prompts: what was answered.
    """
    replies = [
        {
            "prompt": prompt,
            "replies": [
                {"alpha": one.alpha, "oracle_reward": one.oracle_rewards[i], "reply": one.replies[i]} for one in guided
            ],
        }
        for i, prompt in enumerate(prompts)
    ]
    return facts | {
        "kl_estimator": KL_ESTIMATOR,
        "guidance": [one.summary() for one in guided],
        "replies": replies,
    }


def show(found: dict[str, Any], samples: int) -> None:
    """Print the table, how to read it, and the replies to the first prompts."""
    print("\n" + reward_table(found["guidance"], found["options"]["objective"]) + "\n")
    print(
        paragraph(
            "Oracle reward: mean points per reply, with its 95 % interval. ARM reward: mean log pi_r(reply), in nats. "
            f"KL to base, in nats per reply: {KL_ESTIMATOR}, with its 95 % interval."
        )
    )
    print("\n" + paragraph(_control(found["control"])))
    for row in found["replies"][:samples]:
        titles = [f"alpha {reply['alpha']:g} (reward {reply['oracle_reward']:+.2f})" for reply in row["replies"]]
        print("\n" + paragraph(row["prompt"]))
        print(side_by_side(titles, [reply["reply"] for reply in row["replies"]]))


def reward_table(rows: Sequence[dict[str, Any]], objective: str) -> str:
    """The table of the demo.

    Args:
        rows: `results.json`'s `guidance`.
        objective: what the oracle scores.
    """
    header = ["alpha", f"oracle reward ({objective})", "ARM reward", "KL to base", "tokens/s"]
    return table(header, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['alpha']:g}",
        _plus_minus(row["oracle_reward"], 2),
        f"{row['arm_reward']['mean']:.1f}",
        _plus_minus(row["kl"], 1),
        f"{row['tokens_per_second']:.0f}",
    ]


def _plus_minus(interval: dict[str, float], digits: int) -> str:
    margin = (interval["high"] - interval["low"]) / 2
    # adding 0.0 makes a negative zero positive
    return f"{round(interval['mean'], digits) + 0.0:.{digits}f} +- {margin:.{digits}f}"


def _control(row: dict[str, Any]) -> str:
    reward = _plus_minus(row["oracle_reward"], 2)
    return (
        f"For comparison, an untrained reward model (a copy of the base) at alpha {row['alpha']:g} only sharpens it: "
        f"oracle reward {reward}. The rise beyond that was learned from the pairs."
    )


def write(output: Path, found: dict[str, Any]) -> None:
    """Write `results.json`, and `rewards.png` where matplotlib is installed."""
    from ..evaluation.plots import plot_guidance

    with written_whole(output / "results.json") as draft:
        draft.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\nNumbers and all replies: {output / 'results.json'}")
    try:
        with written_whole(output / "rewards.png") as draft:
            plot_guidance(found["guidance"], draft, found["options"]["objective"])
        print(f"Figure: {output / 'rewards.png'}")
    except ImportError as error:
        print(f"No figure was drawn. {error}")


def next_steps(found: dict[str, Any]) -> str:
    """What the user may type next, with the paths of this run."""
    base, arm, prompt = found["base"], found["reward_model"], found["replies"][0]["prompt"]
    alpha = max(row["alpha"] for row in found["guidance"])
    return f"""Now you. On the command line:

{_activation()}  genarm-hf generate --model {base} --reward-model {arm} --alpha {alpha:g} --compare "{prompt}"

In Python:

  import genarm_hf; from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
  model, tokenizer = AutoModelForCausalLM.from_pretrained("{base}"), AutoTokenizer.from_pretrained("{base}")
  inputs, arm = tokenizer("{prompt}", return_tensors="pt"), AutoModel.from_pretrained("{arm}")
  print(tokenizer.decode(model.generate(**inputs, reward_models=[arm], alpha={alpha:g})[0]))"""


def _activation() -> str:
    """What to type before a command that is installed beside this Python and not on the path, as by `make demo`."""
    script = Path(sys.prefix) / "bin" / "activate"
    return "" if which("genarm-hf") or not script.exists() else f"  . {os.path.relpath(script)}\n"
