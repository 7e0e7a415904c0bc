"""Token ids as configurations and callers write them: one, several, or none, as numbers or tensors."""

from __future__ import annotations

import torch


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
