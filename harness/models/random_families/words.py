"""The words that tiny random models know, and the tokenizer of all of them."""

from __future__ import annotations

from typing import Any

import transformers

QUESTIONS = ("what color is the dot ?", "how many are there ?", "is the square left of the dot ?", "what is x ?")
PIECES = ["<", ">", "_", "-", "row", "col", "global", "img", "1", "2", "3"]
"""Of the marks around tiles, for a tokenizer that knows none of them as one token."""
WORDS = ["USER:", "ASSISTANT:", "\n", "\n\n", *" ".join(QUESTIONS).split(), *PIECES]
SPECIAL = [
    "<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    "<img>", "</img>", "<IMG_CONTEXT>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    "<start_of_image>", "<end_of_image>", "<image_soft_token>",
]  # fmt: skip
_ROW_ENDS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
VOCABULARY = {word: place for place, word in enumerate([*SPECIAL, *dict.fromkeys(WORDS), *_ROW_ENDS])}
SPECIAL += _ROW_ENDS
SIZE = 120
TEMPLATE = (
    "<s> USER: {% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}MARK {% else %}{{ part['text'] }} "
    "{% endif %}{% endfor %}ASSISTANT:"
)


def tokenizer(pieces: bool = False, **names: str) -> Any:
    """Return a tokenizer with one token a word or a run of line ends; the marks of all families are special tokens.

    With ``pieces``, those around the tiles of Idefics3 are several tokens, and so are several line ends.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    words = r"\n|\d|[<>_-]|[^\s\d<>_-]+" if pieces else r"\n+|[^\s]+"
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(words), "removed", invert=True)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left",
        clean_up_tokenization_spaces=False, extra_special_tokens=names,
    )  # fmt: skip
    whole = [mark for mark in SPECIAL if not (pieces and mark.startswith(("<row", "<global")))]
    made.add_tokens(whole, special_tokens=True)
    return made
