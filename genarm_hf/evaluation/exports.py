"""Replies of a run in the formats that other evaluations read: AlpacaEval's, and HH-RLHF's.

They take lines as [`run`] returns and [`read`] reads them, and give rows ready for `json.dump`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..training.formats import ASSISTANT, HUMAN

Line = Mapping[str, Any]


def to_alpaca_eval(
    lines: Iterable[Line], dataset: str = "genarm-hf", generator: str | None = None
) -> list[dict[str, str]]:
    """Rows of AlpacaEval's `model_outputs`, a json array that `alpaca_eval --model_outputs` reads.

    Args:
        lines: of one system; its first sample of each prompt under its first seed counts, as AlpacaEval has one reply
            an instruction.
        dataset: the field `dataset`, where lines have no column of that name.
        generator: the field `generator`. None: the system's name.

    Raises:
        ValueError: lines of several systems, or a failed reply.

    Example:
        >>> line = {"id": 0, "system": "guided", "seed": 0, "sample": 0, "prompt": "Hi", "reply": "Hello"}
        >>> to_alpaca_eval([line])
        [{'dataset': 'genarm-hf', 'instruction': 'Hi', 'output': 'Hello', 'generator': 'guided'}]
    """
    chosen: dict[Any, Line] = {}
    for line in sorted(lines, key=lambda line: (line["seed"], line["sample"])):
        chosen.setdefault(line["id"], _replied(line))
    systems = list(dict.fromkeys(line["system"] for line in chosen.values()))
    if len(systems) > 1 and generator is None:
        raise ValueError(f"`lines` are of several systems, {systems}: pass those of one, or a `generator`.")
    return [
        {
            "dataset": str(line.get("dataset", dataset)),
            "instruction": _text(line["prompt"]),
            "output": line["reply"],
            "generator": generator or line["system"],
        }
        for line in chosen.values()
    ]


def to_hh(lines: Iterable[Line], others: Iterable[Line], outcomes: Sequence[float]) -> list[dict[str, str]]:
    r"""Pairs of two systems as rows of HH-RLHF, `chosen` and `rejected` dialogues, by a judge's verdicts.

    [`load_preferences`] and other trainers read them as preference data. Ties and failures are in no pair.

    Args:
        lines: of one system.
        others: of the other one, with the same ids, seeds and samples, in any order.
        outcomes: one for each of `lines`: 1 where its reply is better, -1 where the other is.

    Raises:
        ValueError: a line has no partner, or no outcome.

    Example:
        >>> line = {"id": 0, "seed": 0, "sample": 0, "prompt": "Hi", "reply": "Hello"}
        >>> to_hh([line], [line | {"reply": "What?"}], [1.0])[0]["rejected"]
        '\n\nHuman: Hi\n\nAssistant: What?'
    """
    lines = list(lines)
    if len(lines) != len(outcomes):
        raise ValueError(f"`outcomes` must be one for each of `lines`, got {len(outcomes)} for {len(lines)}.")
    partners = {_place(line): line for line in others}
    lacking = [_place(line) for line in lines if _place(line) not in partners]
    if lacking:
        raise ValueError(f"`others` lack {len(lacking)} of `lines`, the first with (id, seed, sample) = {lacking[0]}.")
    pairs = []
    for line, outcome in zip(lines, outcomes, strict=True):
        if outcome in (1, -1):
            better, worse = (line, partners[_place(line)])[:: int(outcome)]
            pairs.append({"chosen": to_dialogue(better), "rejected": to_dialogue(worse)})
    return pairs


def to_dialogue(line: Line) -> str:
    """Prompt and reply as HH-RLHF writes dialogues. A prompt that is one already is kept.

    Raises:
        ValueError: a failed reply.
    """
    prompt, reply = _text(line["prompt"]), _replied(line)["reply"].strip()
    if not prompt.startswith(HUMAN):
        prompt = f"{HUMAN} {prompt.strip()}{ASSISTANT}"
    return f"{prompt.rstrip()} {reply}"


def _place(line: Line) -> tuple[Any, Any, Any]:
    return line["id"], line["seed"], line["sample"]


def _replied(line: Line) -> Line:
    if line["reply"] is None:
        raise ValueError(f"The line with id {line['id']!r} has no reply ({line.get('error', 'failed')}): leave it out.")
    return line


def _text(prompt: Any) -> str:
    """A prompt as one text; messages as a dialogue, or alone where there is but one."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    names = {"user": HUMAN, "assistant": ASSISTANT}
    unknown = [message["role"] for message in prompt if message["role"] not in names]
    if unknown:
        raise ValueError(f"A dialogue of HH-RLHF has the roles user and assistant, got {unknown[0]!r}.")
    return "".join(f"{names[message['role']]} {message['content']}" for message in prompt) + ASSISTANT
