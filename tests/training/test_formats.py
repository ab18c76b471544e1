"""Each format of preference data by rows written by hand, and what is said of rows that are none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genarm_hf.training.formats import BadRow, as_messages, detect, repeats_prompt, survey


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def read(row: Any, objective: str | None = None, first: Any = None) -> tuple[Any, ...]:
    pair = detect(survey([first or row]), objective)(row)
    return tuple(pair[name] for name in ("prompt", "chosen", "rejected"))


def numbers(row: Any) -> dict[str, float]:
    row = {"prompt": "p", "chosen": "c", "rejected": "r"} | row
    pair = detect(survey([row]))(row)
    return {name: value for name, value in pair.items() if name not in ("prompt", "chosen", "rejected")}


# --------------------------------------------------------------------------- TRL


def test_explicit_prompt() -> None:
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    assert read(row | {"source": "TRL"}) == ("The sky is", " blue.", " green.")
    assert read(row | {"prompt": ""}) == ("", " blue.", " green.")


def test_repeated_prompts() -> None:
    row = {"prompt": "Q: why?", "chosen": "Q: why? Because.", "rejected": "Q: why? No."}
    plain = detect(survey([row]))
    assert repeats_prompt(plain, [row]) and plain(row) == row
    form = detect(survey([row]), repeats=True)
    assert form(row) == {"prompt": "Q: why?", "chosen": " Because.", "rejected": " No."}
    for other in (row | {"rejected": " No."}, row | {"prompt": ""}, row | {"chosen": "Because."}):
        assert form(other) == other  # only one begins with it, or there is nothing to take off
    with pytest.raises(BadRow, match="empty response: 'chosen' says nothing after the prompt"):
        form(row | {"chosen": "Q: why? "})


def test_some_answers_begin_with_their_prompt_by_chance() -> None:
    greeting = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hit"}
    question = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    form = detect(survey([greeting]))
    assert not repeats_prompt(form, [greeting, question])
    assert repeats_prompt(form, [greeting, question, greeting, {"prompt": 3}])  # bad rows do not count
    messages = {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]}
    assert not repeats_prompt(detect(survey([messages])), [messages])


def test_explicit_prompt_of_messages() -> None:
    row = {"prompt": [user("Which colour?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    assert read(row) == (row["prompt"], row["chosen"], row["rejected"])
    repeated = {name: row["prompt"] + row[name] for name in ("chosen", "rejected")}
    assert read(row | repeated) == (row["prompt"], row["chosen"], row["rejected"])


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),
        ("The sky is blue.", "The sky is black.", ("The sky is", " blue.", " black.")),  # not inside a word
        ("The sky is", "The sky is blue", ("The sky", " is", " is blue")),  # no response is empty
        ("Sky?\nBlue", "Sky?\nGreen", ("Sky?\n", "Blue", "Green")),
        ("Sum: 1 + 1 = 2", "Sum: 1 + 1 = 3", ("Sum: 1 + 1 =", " 2", " 3")),
        ("It is so!", "It is so?", ("It is so", "!", "?")),
    ],
)
def test_implicit_prompt(chosen: str, rejected: str, expected: tuple[str, ...]) -> None:
    assert read({"chosen": chosen, "rejected": rejected}) == expected


@given(prompt=st.text(min_size=1), chosen=st.text(min_size=1), rejected=st.text(min_size=1))
def test_an_implicit_prompt_loses_nothing(prompt: str, chosen: str, rejected: str) -> None:
    row = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    try:
        shared, first, second = read(row)
    except BadRow:
        return
    assert (shared + first, shared + second) == (row["chosen"], row["rejected"])
    assert shared and first and second


def test_implicit_prompt_of_messages() -> None:
    asked = [system("Be brief."), user("Which colour?")]
    row = {"chosen": [*asked, assistant("Blue.")], "rejected": [*asked, assistant("Green.")]}
    assert read(row) == (asked, [assistant("Blue.")], [assistant("Green.")])


def test_dialogues_that_part_after_an_answer() -> None:
    """The last place where both answer is before that answer, as for HH-RLHF texts."""
    same = [user("Hi"), assistant("Hello")]
    chosen, rejected = [user("Why?"), assistant("So.")], [user("How?"), assistant("Thus.")]
    row = {"chosen": same + chosen, "rejected": same + rejected}
    assert read(row) == (same[:1], same[1:] + chosen, same[1:] + rejected)


def test_no_shared_prompt() -> None:
    for chosen, rejected in (("Blue", "Green"), (" x", " y"), ([assistant("a")], [assistant("b")])):
        with pytest.raises(BadRow, match="no shared prompt"):
            read({"chosen": chosen, "rejected": rejected})
    with pytest.raises(BadRow, match="no shared prompt"):
        read({"chosen": [user("a"), assistant("x")], "rejected": [user("b"), assistant("x")]})


# --------------------------------------------------------------------------- HH-RLHF


def test_hh_rlhf() -> None:
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    row = {"chosen": prompt + " So it is.", "rejected": prompt + " So it was."}
    assert read(row) == (prompt, " So it is.", " So it was.")
    assert read({"prompt": prompt, "chosen": " So.", "rejected": " Thus."}) == (prompt, " So.", " Thus.")


def test_hh_rlhf_responses_of_several_turns() -> None:
    prompt = "\n\nHuman: Hi\n\nAssistant:"
    chosen, rejected = " Hello\n\nHuman: A\n\nAssistant: B", " Hello\n\nHuman: C\n\nAssistant: D"
    assert read({"chosen": prompt + chosen, "rejected": prompt + rejected}) == (prompt, chosen, rejected)


def test_hh_rlhf_flaws() -> None:
    with pytest.raises(BadRow, match="no shared prompt: the dialogues differ"):
        read({"chosen": "\n\nHuman: A\n\nAssistant: x", "rejected": "\n\nHuman: B\n\nAssistant: x"})
    with pytest.raises(BadRow, match="empty response: 'rejected'"):
        read({"chosen": "\n\nHuman: A\n\nAssistant: x", "rejected": "\n\nHuman: A\n\nAssistant:"})


# --------------------------------------------------------------------------- PKU-SafeRLHF

SAFE_RLHF = {
    "prompt": "How?",
    "response_0": "So.",
    "response_1": "No.",
    "better_response_id": 0,
    "safer_response_id": 1,
    "is_response_0_safe": False,
}


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("better", ("How?", "So.", "No.")),
        ("helpful", ("How?", "So.", "No.")),
        ("safer", ("How?", "No.", "So.")),
        ("harmless", ("How?", "No.", "So.")),
    ],
)
def test_safe_rlhf(objective: str, expected: tuple[str, ...]) -> None:
    assert read(SAFE_RLHF, objective) == expected


@pytest.mark.parametrize("objective", [None, "safe enough"])
def test_safe_rlhf_needs_an_objective(objective: str | None) -> None:
    with pytest.raises(ValueError, match=r"must be 'better' or 'safer'.*got " + repr(objective)):
        read(SAFE_RLHF, objective)


def test_safe_rlhf_flaws() -> None:
    for value in (2, -1, True, "first"):
        with pytest.raises(BadRow, match="'better_response_id' must be 0 or 1"):
            read(SAFE_RLHF | {"better_response_id": value}, "better")
    lacking = {name: value for name, value in SAFE_RLHF.items() if name != "safer_response_id"}
    with pytest.raises(ValueError, match="objective"):
        read(lacking, "safer")
    assert read(lacking, "better")[1] == "So."


# --------------------------------------------------------------------------- UltraFeedback


def test_ultrafeedback() -> None:
    row = {
        "prompt": "Which colour?",
        "prompt_id": "1f",
        "messages": [user("Which colour?"), assistant("Blue.")],
        "chosen": [user("Which colour?"), assistant("Blue.")],
        "rejected": [user("Which colour?"), assistant("Green.")],
        "score_chosen": 8.5,
        "score_rejected": 3,
    }
    assert read(row) == ([user("Which colour?")], [assistant("Blue.")], [assistant("Green.")])
    assert read(row | {"chosen": row["chosen"][1:], "rejected": row["rejected"][1:]}) == read(row)
    with pytest.raises(BadRow, match="another message than the prompt"):
        read(row | {"prompt": "What?"})


def test_scores() -> None:
    expected = {"score_chosen": 8.5, "score_rejected": 3.0}
    assert numbers({"score_chosen": 8.5, "score_rejected": 3}) == expected
    assert numbers({"chosen-rating": 8.5, "rejected-rating": "3"}) == expected
    assert numbers({"score_chosen": 8.5}) == {}
    assert numbers({"score_chosen": None, "score_rejected": None}) == {}
    assert numbers({"margin": "-1.5", "weight": 0}) == {"margin": -1.5, "weight": 0.0}


@pytest.mark.parametrize("value", ["much", float("nan"), float("inf"), True, [1]])
def test_numbers_are_finite(value: Any) -> None:
    with pytest.raises(BadRow, match="not a number: column 'margin' must be a finite number"):
        numbers({"margin": value})


def test_weights_are_not_negative() -> None:
    with pytest.raises(BadRow, match="negative weight"):
        numbers({"weight": -0.5})


def test_numbers_are_in_all_rows() -> None:
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    with pytest.raises(BadRow, match="missing column: there is no 'margin'"):
        detect(survey([row | {"margin": 1.0}]))(row)
    with pytest.raises(BadRow, match="uneven column: 'margin'"):
        detect(survey([row]))(row | {"margin": 1.0})


# --------------------------------------------------------------------------- LLaMA-Factory


def test_alpaca() -> None:
    row = {"instruction": "Add.", "input": "1 + 1", "chosen": "2", "rejected": "3"}
    assert read(row) == ("Add.\n1 + 1", "2", "3")
    assert read(row | {"input": ""}) == read(row | {"input": None}) == ("Add.", "2", "3")
    assert read(row | {"system": "", "history": []}) == ("Add.\n1 + 1", "2", "3")


def test_alpaca_with_system_and_history() -> None:
    row = {"instruction": "Add.", "chosen": "2", "rejected": "3"}
    with_both = row | {"system": "Be brief.", "history": [["Hi", "Hello"]]}
    asked = [system("Be brief."), user("Hi"), assistant("Hello"), user("Add.")]
    assert read(with_both) == (asked, [assistant("2")], [assistant("3")])
    assert read(row, first=with_both)[0] == [user("Add.")]
    with pytest.raises(BadRow, match="uneven column: this row has a system prompt"):
        read(with_both, first=row)
    with pytest.raises(BadRow, match="wrong type: column 'history'"):
        read(row | {"history": [["Hi"]]})


def test_sharegpt() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": "Add."},
        ],
        "chosen": {"from": "gpt", "value": "2"},
        "rejected": {"from": "gpt", "value": "3"},
    }
    asked = [user("Hi"), assistant("Hello"), user("Add.")]
    assert read(row) == (asked, [assistant("2")], [assistant("3")])
    assert read(row | {"system": "Be brief."})[0] == [system("Be brief."), *asked]
    own = [{"from": "system", "value": "Be long."}, *row["conversations"]]
    assert read(row | {"system": "Be brief.", "conversations": own})[0] == [system("Be long."), *asked]
    with pytest.raises(BadRow, match="ends with an answer"):
        read(row | {"conversations": row["conversations"][:2]})
    with pytest.raises(BadRow, match="unknown role: column 'chosen' has a message from 'function_call'"):
        read(row | {"chosen": {"from": "function_call", "value": "2"}})


# --------------------------------------------------------------------------- in general


def test_messages_as_columns() -> None:
    """`datasets.Sequence` of messages gives a dictionary of lists."""
    assert as_messages({"role": ["user", "assistant"], "content": ["a", "b"]}, "x") == [user("a"), assistant("b")]
    assert as_messages([user("a") | {"tool_calls": None}], "x") == [user("a")]


@pytest.mark.parametrize("value", ["text", [], ["text"], [{"role": "user"}], [{"role": "user", "content": None}], 3])
def test_what_messages_are_not(value: Any) -> None:
    with pytest.raises(BadRow, match="wrong type: column 'x' must"):
        as_messages(value, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, "missing column: there is no 'chosen'"),
        ({"rejected": " \n"}, "empty response: 'rejected' says nothing"),
        ({"prompt": 3}, r"wrong type: column 'prompt' must be a string, got 3 \(int\)"),
        ({"chosen": [assistant("a")]}, "wrong type: column 'chosen' must be a string"),
    ],
)
def test_flaws_of_texts(change: dict[str, Any], message: str) -> None:
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    with pytest.raises(BadRow, match=message):
        read(row | change, first=row)


def test_columns_of_lists_are_no_messages() -> None:
    with pytest.raises(BadRow, match="got 'b': a text is a string, not a list, and each pair is a row of its own"):
        read({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})


def test_a_row_is_a_mapping() -> None:
    with pytest.raises(BadRow, match="a row must be a mapping, got list"):
        read(["p", "c", "r"], first={"prompt": "p", "chosen": "c", "rejected": "r"})


def test_unknown_columns() -> None:
    with pytest.raises(ValueError, match=r"\['answer', 'question'\]") as caught:
        read({"question": "p", "answer": "c"})
    for known in ("PKU-SafeRLHF: prompt, response_0", "conversations, chosen, rejected", "instruction", "HH-RLHF"):
        assert known in str(caught.value)
