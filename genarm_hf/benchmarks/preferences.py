"""What a small reward model learns from real preferences: cross-validation by prompt, next to simple baselines.

Every pair is held out once, and no prompt is in both the training and the held-out part of a fold. The model is a small
Llama with a tokenizer of its own, pretrained on other texts, or any model by name. Next to it stand the same model
before training (what a language model prefers anyway), the difference of the two, always preferring the longer or the
shorter response, and a logistic regression on the words of the responses.
"""

from collections.abc import Callable, Iterator, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..training.metrics import Accuracy, pair_accuracy, preference_summary

_BLOCK = 256  # tokens of a pretraining example
_VOCAB = 4096

Array = NDArray[np.float64]


def bench_preferences(
    data: Any,
    make_model: Callable[[], tuple[Any, Any]],
    folds: int = 5,
    seed: int = 0,
    training: dict[str, Any] | None = None,
    progress: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train and judge on each fold, and pool the held-out pairs.

    Args:
        data: what `load_preferences` gives, of strings.
        make_model: gives the model to start from and its tokenizer; called for each fold.
        folds: how many.
        seed: of the folds and the training.
        training: options of `ARMTrainingArguments`.
        progress: called after each fold.

    Yields:
        a row per system: its accuracy with interval; for models also how it goes with length.
    """
    from ..training.preferences import folds_by_prompt

    scores: dict[str, list[Array]] = {}
    sizes: list[Array] = []
    for train, held_out in folds_by_prompt(data, folds, seed):
        before, after, lengths = train_and_read(*make_model(), train, held_out, seed, training or {})
        found = {"reward model": after, "before training": before, "what training changed": after - before}
        found["length alone"] = by_length(train, held_out)
        found["bag of words"] = by_words(train, held_out)
        for name, values in found.items():
            scores.setdefault(name, []).append(values)
        sizes.append(lengths)
        if progress is not None:
            progress()
    extra = np.concatenate(sizes)
    for name, parts in scores.items():
        yield _row(name, np.concatenate(parts), extra, [pair_accuracy(part[:, 0] - part[:, 1]) for part in parts])


def _row(name: str, scores: Array, lengths: Array, folds: Sequence[Accuracy]) -> dict[str, Any]:
    summary = preference_summary(*scores.T, *lengths.T).to_dict()
    kept = {key: summary[key] for key in ("accuracy", "by_length", "length_correlation")}
    return {"system": name, **kept, "accuracy_of_folds": [fold.value for fold in folds]}


def train_and_read(
    model: Any, tokenizer: Any, train: Any, held_out: Any, seed: int, options: dict[str, Any]
) -> tuple[Array, Array, Array]:
    """Log-probabilities `(pairs, 2)` of held-out responses before and after training, and their lengths in tokens."""
    from ..training import ARMTrainer, ARMTrainingArguments

    quiet: dict[str, Any] = {
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    with TemporaryDirectory() as directory:
        args = ARMTrainingArguments(directory, seed=seed, **quiet | {"logging_strategy": "no"} | options)
        trainer = ARMTrainer(model, args, train, processing_class=tokenizer)
        before = trainer.predict(held_out)
        trainer.train()
        after = trainer.predict(held_out)
    rows = [tokenizer(list(held_out[name]), add_special_tokens=False)["input_ids"] for name in ("chosen", "rejected")]
    lengths = np.array([[len(ids) + 1.0 for ids in column] for column in rows]).T
    tokens = lengths if args.length_normalize else np.ones_like(lengths)
    return np.asarray(before.predictions) / tokens, np.asarray(after.predictions) / tokens, lengths


# ---------------------------------------------------------------------- baselines


def by_length(train: Any, held_out: Any) -> Array:
    """Scores `(pairs, 2)` that prefer what is longer, or shorter, whichever is right more often in training."""

    def lengths(rows: Any) -> Array:
        return np.array([[len(row["chosen"]), len(row["rejected"])] for row in rows], dtype=np.float64)

    seen = lengths(train)
    return lengths(held_out) * (1.0 if (seen[:, 0] > seen[:, 1]).sum() >= (seen[:, 0] < seen[:, 1]).sum() else -1.0)


def by_words(train: Any, held_out: Any) -> Array:
    """Scores `(pairs, 2)` of a logistic regression on the difference of word counts."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(min_df=3, ngram_range=(1, 2), binary=True)
    words.fit([*train["chosen"], *train["rejected"]])
    difference = words.transform(train["chosen"]) - words.transform(train["rejected"])
    # both orders, and no intercept: which response is written first says nothing
    labels = np.repeat([1, 0], difference.shape[0])
    judge = LogisticRegression(C=0.03, fit_intercept=False, max_iter=1000)
    judge.fit(vstack([difference, -difference]), labels)
    columns = [judge.decision_function(words.transform(held_out[name])) for name in ("chosen", "rejected")]
    return np.stack(columns, axis=-1)


# ---------------------------------------------------------------------- a model of one's own


def small_language_model(texts: Sequence[str], epochs: float = 3.0, seed: int = 0) -> tuple[Any, Any]:
    """A byte-level BPE tokenizer of 4,096 tokens and a Llama of 2.2M parameters, trained on texts.

    Args:
        texts: what to train on.
        epochs: passes over them.
        seed: of weights and order.
    """
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator, set_seed

    tokenizer = _tokenizer(texts)
    ids = [token for text in tokenizer(list(texts))["input_ids"] for token in (*text, tokenizer.eos_token_id)]
    blocks = [ids[start : start + _BLOCK] for start in range(0, len(ids) - _BLOCK + 1, _BLOCK)]
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=6,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    with TemporaryDirectory() as directory:
        args = TrainingArguments(
            directory,
            num_train_epochs=epochs,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            per_device_train_batch_size=16,
            weight_decay=0.1,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        rows = Dataset.from_dict({"input_ids": blocks, "labels": blocks})
        Trainer(model, args, train_dataset=rows, data_collator=default_data_collator).train()
    return model.eval(), tokenizer


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(texts, vocab_size=_VOCAB, special_tokens=special, show_progress=False)
    inner._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
