"""Token ids as configurations and callers write them: one, several, or none, as numbers or tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from methods.question_words import question_words


def token_ids(value: object) -> tuple[int, ...]:
    """Return the token ids of an option such as ``eos_token_id``, which ``generate`` of transformers takes in many forms.

    Args:
        value: None, a number, or numbers in a list, an array or a tensor of any shape.

    Raises:
        ValueError: for anything else.

    >>> token_ids(2), token_ids([2, torch.tensor(7)]), token_ids(torch.tensor([[2, 7]])), token_ids(None)
    ((2,), (2, 7), (2, 7), ())
    """
    if value is None:
        return ()
    try:
        found = torch.as_tensor(value).flatten().tolist()
        ids = tuple(map(int, found))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{value!r} is no token id, nor a list or tensor of them") from error
    if list(ids) != found:
        raise ValueError(f"{value!r} holds numbers that are not whole, and token ids are")
    return ids


def own_words(tokenizer: Any, texts: Iterable[str]) -> list[list[int]] | None:
    """Return the token ids of the words that say what each question is about; see `methods.question_words`.

    Args:
        tokenizer: of transformers; None for a model that has none, which gives None.
        texts: what is asked, without a chat template.
    """
    if tokenizer is None:
        return None
    return [tokenizer(question_words(text), add_special_tokens=False).input_ids for text in texts]
