"""Claim 7: token rewards say where a reply goes wrong; a trajectory-level reward model's scores of prefixes, less so.

One bad sentence is planted in a clean reply (`planting`), and each system points at one token of it: the token to which
it gives the least credit. Counted is how often that is the first wrong token, and how often it is in the planted
sentence. The systems:

- an ARM's token rewards, `log pi_r(y_t | y_<t)`;
- the same minus the log-probabilities of the backbone before training, which takes away what was unlikely anyway;
- these log-probabilities alone, as a control: planted text may simply be surprising;
- a trajectory-level reward model of the same backbone and pairs: differences of its scores of prefixes, as ARGS (arXiv
  2402.01694) and others use it;
- a token drawn at random.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters import unwrap
from ..modeling_genarm import AutoregressiveRewardModel
from .figures import Panel, draw_panels
from .lab import Lab
from .models import ArmTraining, trained_arm, trained_trajectory_reward, untrained_arm
from .planting import PLANTED, Planted, plant
from .samples import SAMPLES, Row, Sample, collect, summarise

TITLE = "Token credit: where a reply goes wrong"
CLAIM = (
    "An ARM rewards token by token; a trajectory-level reward model is trained on whole replies, and what it says "
    "of partial ones is unreliable."
)

ARM, ADVANTAGE, BACKBONE, TRAJECTORY, CHANCE = (
    "ARM: token rewards",
    "ARM minus backbone",
    "backbone (control)",
    "trajectory RM: differences of prefix scores",
    "chance",
)
FIELDS = ("first wrong token", "planted sentence")

PrefixScores = Callable[[Tensor], Tensor]
"""Ids of prompt and reply, `(length,)`, to a score of the text up to each of them, `(length,)`."""


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Train the systems and let them point at the planted sentences."""
    cells = [{"objective": objective, "seed": seed} for objective in PLANTED for seed in lab.seeds]
    samples = collect(output / SAMPLES, cells, lambda cell: _point(lab, cell), progress)
    return [
        *summarise(samples, ("objective", "system"), FIELDS, table="Where the least credit is"),
        *summarise(samples, ("objective", "kind", "system"), FIELDS, table="By what was planted"),
    ]


def findings(rows: Sequence[Row]) -> list[str]:
    """What the shares say."""
    found = []
    for objective in PLANTED:
        shares = {
            row["where"]["system"]: row["values"]
            for row in rows
            if row["where"]["objective"] == objective and "kind" not in row["where"]
        }
        parts = [
            f"{system}: {100 * values[FIELDS[0]]['mean']:.0f} % / {100 * values[FIELDS[1]]['mean']:.0f} %"
            for system, values in shares.items()
        ]
        found.append(
            f"{objective.capitalize()}, first wrong token found / planted sentence found. " + "; ".join(parts) + "."
        )
    return found


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of both shares, a panel an objective."""
    panels = []
    for objective in PLANTED:
        panel = Panel(objective, "least credit is at the ...", "share of replies")
        for row in rows:
            if row["where"]["objective"] == objective and "kind" not in row["where"]:
                panel.lines[row["where"]["system"]] = [(field, row["values"][field]) for field in FIELDS]
        panels.append(panel)
    draw_panels(panels, path)


def _point(lab: Lab, cell: Mapping[str, Any]) -> Iterator[Sample]:
    """What every system says of every reply, for one objective and seed."""
    objective, seed = cell["objective"], cell["seed"]
    replies = [plant(objective, prompt, seed) for prompt in lab.prompts]
    training = ArmTraining(objective, seed, lab.pairs_to_train_on)
    # the backbone first: adapters are attached to its weights
    backbone = [token_credit(untrained_arm(lab), lab.tokenizer, one) for one in replies]
    arm = trained_arm(lab, training)
    rewards = [token_credit(arm, lab.tokenizer, one) for one in replies]
    credits = {
        ARM: rewards,
        ADVANTAGE: [a - b for a, b in zip(rewards, backbone, strict=True)],
        BACKBONE: backbone,
    }
    scores = classifier_scores(unwrap(trained_trajectory_reward(lab, training)))
    credits[TRAJECTORY] = [prefix_credit(scores, lab.tokenizer, one) for one in replies]
    for number, one in enumerate(replies):
        where = {"prompt": number, "kind": one.kind}
        for system, values in credits.items():
            yield {**where, "system": system, **hits(values[number], one), "text": one.reply}
        yield {**where, "system": CHANCE, FIELDS[0]: 1 / one.length, FIELDS[1]: (one.end - one.start) / one.length}


def hits(credit: Tensor, planted: Planted) -> dict[str, float]:
    """Whether the token with the least credit is the first wrong one, and whether it is in the planted sentence.

    Args:
        credit: `(tokens of the reply,)`; the end of the text does not count.
        planted: the reply.
    """
    place = int(credit[: planted.length].argmin())
    return {
        "place": place,
        FIELDS[0]: float(place == planted.wrong),
        FIELDS[1]: float(planted.start <= place < planted.end),
    }


@torch.no_grad()
def token_credit(arm: AutoregressiveRewardModel, tokenizer: Any, planted: Planted) -> Tensor:
    """An ARM's rewards of a reply's tokens, `(tokens of the reply,)`, in nats."""
    ids = _ids(tokenizer, planted)
    return arm.token_rewards(ids[None])[0, -planted.length :]


@torch.no_grad()
def prefix_credit(scores: PrefixScores, tokenizer: Any, planted: Planted) -> Tensor:
    """By how much each token of a reply changes the score of the text so far."""
    values = scores(_ids(tokenizer, planted))
    return values.diff()[-planted.length :]


def _ids(tokenizer: Any, planted: Planted) -> Tensor:
    return tokenizer(f"{planted.prompt} {planted.reply}", return_tensors="pt")["input_ids"][0]


def classifier_scores(classifier: Any) -> PrefixScores:
    """Scores of all prefixes of a text by a sequence classifier with one label, in one forward.

    It is causal and reads its score off the last token, so at any other place its head says what it would of that
    prefix.
    """

    def scores(ids: Tensor) -> Tensor:
        hidden = classifier.base_model(input_ids=ids[None], use_cache=False).last_hidden_state
        return classifier.score(hidden)[0, :, 0]

    return scores
