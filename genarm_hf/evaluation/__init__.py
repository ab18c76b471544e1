"""What systems are worth: let them reply, judge the replies, count the costs, and say how sure the numbers are.

`metrics` and `pareto` are arrays in, numbers out; `runner`, `prompts` and `exports` know files and no model; `systems`,
`jobs`, `judge`, `costs` and `preferences` run models; `plots` draws what is on disk.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .metrics import (
    Interval,
    WinRates,
    bootstrap_interval,
    compare,
    distinct_n,
    exact_kl,
    gap_recovered,
    log_ratios,
    mean_interval,
    perplexity,
    win_rates,
)
from .pareto import hypervolume, inverted_generational_distance, non_dominated

if TYPE_CHECKING:
    from .costs import Costs, ModelCost, counting
    from .exports import to_alpaca_eval, to_dialogue, to_hh
    from .jobs import generate_dataset
    from .judge import EndpointJudge, Verdict, judge_pairs, outcomes, reward_judge, score_judge
    from .preferences import PreferenceReport, evaluate_preferences
    from .prompts import read_prompts
    from .runner import read, run
    from .systems import from_decoder, guided, reply_logprobs

# their modules load torch and transformers, which who only reads results does not wait for
_LATER = {
    "costs": ("Costs", "ModelCost", "counting"),
    "jobs": ("generate_dataset",),
    "exports": ("to_alpaca_eval", "to_dialogue", "to_hh"),
    "judge": ("EndpointJudge", "Verdict", "judge_pairs", "outcomes", "reward_judge", "score_judge"),
    "preferences": ("PreferenceReport", "evaluate_preferences"),
    "prompts": ("read_prompts",),
    "runner": ("read", "run"),
    "systems": ("from_decoder", "guided", "reply_logprobs"),
}

__all__ = [
    "Costs",
    "EndpointJudge",
    "Interval",
    "ModelCost",
    "PreferenceReport",
    "Verdict",
    "WinRates",
    "bootstrap_interval",
    "compare",
    "counting",
    "distinct_n",
    "evaluate_preferences",
    "exact_kl",
    "from_decoder",
    "gap_recovered",
    "generate_dataset",
    "guided",
    "hypervolume",
    "inverted_generational_distance",
    "judge_pairs",
    "log_ratios",
    "mean_interval",
    "non_dominated",
    "outcomes",
    "perplexity",
    "read",
    "read_prompts",
    "reply_logprobs",
    "reward_judge",
    "run",
    "score_judge",
    "to_alpaca_eval",
    "to_dialogue",
    "to_hh",
    "win_rates",
]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
