"""The playground's tokenizer: one token a word or punctuation mark, a real Hugging Face fast tokenizer.

Words carry the space before them (`▁word`), as in Llama's tokenizers, so that `decode(encode(text)) == text` for the
texts of the world, and the ids of `prompt + " " + reply` are the ids of the prompt followed by those of the reply.
No special token is added on encoding: a prompt starts with "User", and an end of text is the trainer's to add.
"""

from typing import TYPE_CHECKING

from .lexicon import PROMPT_TEMPLATE
from .parsing import _TOKEN, sentence_table
from .world import all_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
_SPACE = "▁"


def _marked(text: str) -> list[str]:
    """The tokens of a text: words marked with their space, punctuation as it is."""
    return [_SPACE + token if token[0].isalnum() else token for token in _TOKEN.findall(text)]


def vocabulary() -> dict[str, int]:
    """Token to id: the special tokens, then every token of the world in alphabetical order."""
    tokens = set(_marked(PROMPT_TEMPLATE.format(prompt="")))
    for text in (*sentence_table(), *all_prompts()):
        tokens.update(_marked(text))
    return {token: index for index, token in enumerate([PAD, BOS, EOS, UNK, *sorted(tokens)])}


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """A fresh tokenizer of the world; `load_tokenizer()` of the package loads the committed one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    backend.decoder = decoders.Metaspace(_SPACE, prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
