"""Checks the tensors that ``generate`` is handed: what the engine would trip over, or read as something else, is refused."""

from __future__ import annotations

import torch

from harness.errors import RequestError

_HOW = "as the processor makes it with return_tensors='pt'"


def check_ids(ids: object, vocabulary: int, image_token: int) -> None:
    """Check that ``input_ids`` hold prompts, one a row.

    Args:
        ids: what was given.
        vocabulary: how many token ids the model has an embedding of.
        image_token: the id that stands where visual tokens go.

    Raises:
        RequestError: for other shapes or types, and for ids that the model does not have.
    """
    if not isinstance(ids, torch.Tensor):
        raise RequestError(f"generate: input_ids is a {type(ids).__name__}; give a tensor [prompts, tokens], {_HOW}")
    if ids.dim() != 2:
        mend = "; input_ids[None] is one prompt" if ids.dim() == 1 else ""
        raise RequestError(f"generate: input_ids are {list(ids.shape)}, where [prompts, tokens] are needed{mend}")
    if ids.dtype not in (torch.int64, torch.int32):
        raise RequestError(f"generate: input_ids hold {str(ids.dtype).removeprefix('torch.')}, not whole numbers of 64 bits")
    if not ids.numel():
        raise RequestError(f"generate: input_ids are {list(ids.shape)}, so there is nothing to answer")
    wrong = ids[((ids < 0) | (ids >= vocabulary)) & (ids != image_token)]
    if len(wrong):
        raise RequestError(f"generate: input_ids hold {int(wrong[0])}, and the model knows 0 to {vocabulary - 1}")


def check_pixels(pixels: object) -> None:
    """Check that ``pixel_values`` are numbers of at least one image; which shape is right depends on the family.

    Raises:
        RequestError: for anything else.
    """
    if not isinstance(pixels, torch.Tensor):
        raise RequestError(f"generate: pixel_values is a {type(pixels).__name__}; give a tensor, {_HOW}")
    if not pixels.is_floating_point():
        raise RequestError(f"generate: pixel_values hold {str(pixels.dtype).removeprefix('torch.')}, not normalised colours")
    if not pixels.numel():
        raise RequestError(f"generate: pixel_values are {list(pixels.shape)}, so they hold no image")
    if not bool(pixels.isfinite().all()):
        raise RequestError("generate: pixel_values hold NaN or infinite numbers, which no picture has")
    if pixels.dim() > 2 and pixels.shape[-3] != 3:
        raise RequestError(f"generate: pixel_values are {list(pixels.shape)}; images have 3 colours, [..., 3, height, width]")


def checked_mask(ids: torch.Tensor, mask: object, pad: int, ends: tuple[int, ...]) -> torch.Tensor:
    """Return which columns are no padding, bool [B, L]: by the rules of ``generate`` where no mask is given.

    Args:
        ids: int64 [B, L].
        mask: what was given as ``attention_mask``, or None.
        pad: the token that pads.
        ends: tokens that end an answer.

    Raises:
        RequestError: for a mask that does not fit, and for rows that are not padded on the left alone.
    """
    if mask is None:
        mask = torch.ones_like(ids, dtype=torch.bool) if pad in ends else ids != pad
    if not isinstance(mask, torch.Tensor):
        raise RequestError(f"generate: attention_mask is a {type(mask).__name__}; give a tensor [prompts, tokens], {_HOW}")
    if mask.shape != ids.shape:
        raise RequestError(f"generate: attention_mask is {list(mask.shape)}, input_ids are {list(ids.shape)}")
    if bool(((mask != 0) & (mask != 1)).any()):
        raise RequestError("generate: attention_mask holds numbers beside 0 (padding) and 1; a mask added to scores is not taken")
    mask = mask.bool().to(ids.device)
    if not bool(mask[:, -1].all()) or bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise RequestError("generate: prompts must be padded on the left; set processor.tokenizer.padding_side = 'left'")
    return mask
