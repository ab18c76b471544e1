"""Claim 7: token rewards say where a reply goes wrong; a trajectory-level reward model's scores of prefixes, less so.

One bad sentence is planted in a clean reply (`planting`), and each system points at one token of it: the token to which
it gives the least credit. Counted is how often that is the first wrong token, and how often it is in the planted
sentence; and, as a judge of whole replies, how often it prefers the clean reply to the planted one. The systems:

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
from ..playground.parsing import count_tokens
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
FIRST, SENTENCE, PREFERRED = FIELDS = ("first wrong token", "planted sentence", "clean reply preferred")

Credit = Callable[[Tensor], Tensor]
"""Ids of prompt, reply and end of text, `(length,)`, to a credit for each of them, `(length,)`."""


def run(lab: Lab, output: Path, progress: Callable[[str], Any]) -> list[Row]:
    """Train the systems and let them point at the planted sentences."""
    cells = [{"objective": objective, "seed": seed} for objective in PLANTED for seed in lab.seeds]
    samples = collect(output / SAMPLES, cells, lambda cell: _point(lab, cell), progress)
    return [
        *summarise(samples, ("objective", "system"), FIELDS, table="Where the least credit is"),
        *summarise(samples, ("objective", "kind", "system"), FIELDS, table="By what was planted"),
    ]


def answer(rows: Sequence[Row]) -> str:
    """How often ARM and trajectory-level reward model point at the first wrong token, in a sentence."""
    shares = {
        (row["where"]["objective"], row["where"]["system"]): f"{row['values'][FIRST]['mean']:.0%}"
        for row in rows
        if "kind" not in row["where"]
    }
    return "first wrong token found: " + "; ".join(
        f"{objective}, {shares[objective, ARM]} by an ARM, {shares[objective, TRAJECTORY]} by a trajectory RM"
        for objective in PLANTED
    )


def findings(rows: Sequence[Row]) -> list[str]:
    """What the shares say."""
    found = []
    for objective in PLANTED:
        shares = [
            f"{row['where']['system']}: " + " / ".join(f"{row['values'][field]['mean']:.0%}" for field in FIELDS)
            for row in rows
            if row["where"]["objective"] == objective and "kind" not in row["where"]
        ]
        found.append(f"{objective.capitalize()}, {' / '.join(FIELDS)}. {'; '.join(shares)}.")
    return found


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars of both shares, a panel an objective."""
    panels = []
    for objective in PLANTED:
        panel = Panel(objective, "least credit is at the ...", "share of replies")
        for row in rows:
            if row["where"]["objective"] == objective and "kind" not in row["where"]:
                panel.lines[row["where"]["system"]] = [(field, row["values"][field]) for field in (FIRST, SENTENCE)]
        panels.append(panel)
    draw_panels(panels, path)


def _point(lab: Lab, cell: Mapping[str, Any]) -> Iterator[Sample]:
    """What every system says of every reply, for one objective and seed."""
    objective, seed = cell["objective"], cell["seed"]
    replies = [plant(objective, prompt, seed) for prompt in lab.prompts]
    training = ArmTraining(objective, seed, lab.pairs_to_train_on, learning_rate=lab.reward_rate)
    credits = _credits(lab, training, replies)
    for number, one in enumerate(replies):
        where = {"prompt": number, "kind": one.kind}
        for system, values in credits.items():
            planted, clean = values[number]
            preferred = float(clean.sum() > planted.sum())
            yield {**where, "system": system, **hits(planted, one), PREFERRED: preferred, "text": one.reply}
        shares = {FIRST: 1 / one.length, SENTENCE: (one.end - one.start) / one.length, PREFERRED: 0.5}
        yield {**where, "system": CHANCE, **shares}


def _credits(lab: Lab, training: ArmTraining, replies: Sequence[Planted]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Of every system, credits of each reply's tokens, planted and clean."""
    systems: dict[str, Credit] = {
        ARM: token_rewards(trained_arm(lab, training)),
        BACKBONE: token_rewards(untrained_arm(lab)),
        TRAJECTORY: score_differences(unwrap(trained_trajectory_reward(lab, training))),
    }
    found = {
        name: [(_of_reply(credit, lab, one, one.reply), _of_reply(credit, lab, one, one.clean)) for one in replies]
        for name, credit in systems.items()
    }
    pairs = zip(found[ARM], found[BACKBONE], strict=True)
    advantages = [(arm[0] - backbone[0], arm[1] - backbone[1]) for arm, backbone in pairs]
    return {ARM: found[ARM], ADVANTAGE: advantages, BACKBONE: found[BACKBONE], TRAJECTORY: found[TRAJECTORY]}


@torch.no_grad()
def _of_reply(credit: Credit, lab: Lab, planted: Planted, reply: str) -> Tensor:
    """Credit of a reply's tokens and of its end, `(tokens of the reply + 1,)`."""
    ids = [*lab.tokenizer(f"{planted.prompt} {reply}")["input_ids"], lab.tokenizer.eos_token_id]
    return credit(torch.tensor(ids))[-count_tokens(reply) - 1 :]


def hits(credit: Tensor, planted: Planted) -> dict[str, float]:
    """Whether the token with the least credit is the first wrong one, and whether it is in the planted sentence.

    Args:
        credit: `(tokens of the reply + 1,)`; the end of the text, which is last, does not count.
        planted: the reply.
    """
    place = int(credit[: planted.length].argmin())
    return {
        "place": place,
        FIRST: float(place == planted.wrong),
        SENTENCE: float(planted.start <= place < planted.end),
    }


def token_rewards(arm: AutoregressiveRewardModel) -> Credit:
    """An ARM's rewards of tokens, in nats."""
    return lambda ids: arm.token_rewards(ids[None])[0]


def score_differences(classifier: Any) -> Credit:
    """By how much each token changes what a sequence classifier with one label says of the text so far.

    The classifier is causal and reads its score off the last token, so at any other place its head says what it would
    of the text up to there: one forward gives the scores of all prefixes. The first token has 0.
    """

    def credit(ids: Tensor) -> Tensor:
        hidden = classifier.base_model(input_ids=ids[None], use_cache=False).last_hidden_state
        scores = classifier.score(hidden)[0, :, 0]
        return scores.diff(prepend=scores[:1])

    return credit
