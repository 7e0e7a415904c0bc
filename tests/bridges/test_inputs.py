"""What processors make, read back: every family's prompts, and answers equal to ``generate``."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from harness.bridges.inputs import IMAGE_INPUTS, canvas, read
from harness.bridges.pruned import prune
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.models.prompt import VISUAL
from harness.models.random_families.words import QUESTIONS
from tests.models.tiny_families import FAMILIES, PARAMS, Family, ask, fresh, picture

LIMIT = 4
make = cache(fresh)  # models of its own: `prune` changes them
NAMED_SIZES = {"llava-next": "image_sizes", "qwen2.5-vl": "image_grid_thw", "mistral3": "image_sizes"}


SHAPES = {
    "square": [(40, 40, 1)],
    "tall": [(60, 30, 2)],
    "wide": [(30, 90, 3)],
    "two": [(32, 32, 1), (60, 30, 2)],
}


@pytest.fixture(scope="module", params=PARAMS)
def family(request):
    return make(request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_are_those_of_the_adapter(family, shape):
    images = [picture(*size) for size in SHAPES[shape]]
    question, adapter = QUESTIONS[2], family.adapter
    inputs = family.inputs(question, images)
    (prompt,) = read(adapter, [inputs["input_ids"][0].tolist()], {name: inputs.get(name) for name in IMAGE_INPUTS})
    before, after = adapter.prompt(question, len(images))
    pixels = adapter.prompt_pixels([images])
    assert (list(prompt.prefix), list(prompt.question)) == (before, after)
    assert prompt.spans == pixels.spans[0]
    torch.testing.assert_close(prompt.pixels.to(adapter.dtype), pixels.tensors[0])
    assert question.split()[0] in prompt.text


@pytest.mark.parametrize("shape", SHAPES)
def test_all_tokens_equal_generate(family, shape):
    inputs = family.inputs(QUESTIONS[0], [picture(*size) for size in SHAPES[shape]])
    model = family.adapter.model
    pruned = prune(model, "none", processor=family.adapter.processor)
    options = {"max_new_tokens": LIMIT, "do_sample": False}
    assert torch.equal(pruned.generate(**inputs, **options), model.generate(**inputs, **options))
    assert pruned.self_check.outcome == "equal"


def test_a_padded_batch_of_unequal_images_equals_generate(family):
    """Rows with other pictures, lengths and text before the image."""
    processor, model = family.adapter.processor, family.adapter.model
    texts = [family.text(QUESTIONS[0]), family.text(QUESTIONS[2]).replace("USER:", "USER: what is x")]
    images = [picture(60, 30, 2), picture(30, 90, 3)]
    nested = [[image] for image in images] if family.nests else images
    inputs = processor(images=nested, text=texts, padding=True, return_tensors="pt", add_special_tokens=False)
    options = {"max_new_tokens": LIMIT, "do_sample": False}
    expected = model.generate(**inputs, **options)
    pruned = prune(model, "none", processor=processor)
    assert torch.equal(pruned.generate(**inputs, **options), expected)
    assert all(before > 0 for before, _ in pruned.visual_tokens)


def test_pruned_answers_are_those_of_the_engine(family):
    """A share of the tokens, by a method that reads the places of tokens and the projected tokens."""
    adapter, question, image = family.adapter, QUESTIONS[0], picture(30, 90, 3)
    pruned = prune(adapter.model, "sts", keep=0.5, budget="final", processor=adapter.processor)
    inputs = family.inputs(question, [image])
    out = pruned.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)
    before, after = adapter.prompt(question)
    zero = torch.zeros(1, dtype=torch.int64)
    batch = ask(family, [[image]], 1).batch
    assert (batch.prefix, batch.questions) == (before, [after])
    steps = pruned.pruner.steps(adapter.shape_for(batch.pixels.spans[0]))
    expected = Engine(adapter, LIMIT).run(EngineRequest(batch.reseeded(zero, zero), steps))
    answer = out[0, inputs["input_ids"].shape[1] :].tolist()
    assert [token for token in answer if token not in adapter.end_ids] == expected.tokens[0]
    count = adapter.prompt_pixels([[image]]).counts[0]
    assert pruned.visual_tokens == [(count, round(count / 2))]


@pytest.mark.parametrize("family", [param for param in PARAMS if param.values[0] in NAMED_SIZES], indirect=True)
def test_sizes_that_are_left_out_are_named(family):
    """Without a processor, too: what ends a row of an image stands in the prompt itself."""
    inputs = dict(family.inputs(QUESTIONS[0], [picture(60, 30, 2)]))
    pruned, options = prune(family.adapter.model, "none"), {"max_new_tokens": LIMIT, "do_sample": False}
    assert torch.equal(pruned.generate(**inputs, **options), family.adapter.model.generate(**inputs, **options))
    name = NAMED_SIZES[family.name]
    inputs.pop(name)
    with pytest.raises(RequestError, match=f"pixel_values have no {name} beside them"):
        pruned.generate(**inputs, **options)


@pytest.mark.parametrize("family", [param for param in PARAMS if param.values[0] == "mistral3"], indirect=True)
def test_images_and_row_ends_that_do_not_belong_together_are_refused(family):
    inputs = dict(family.inputs(QUESTIONS[0], [picture(60, 30, 2)]))
    pruned, ids = prune(family.adapter.model, "none"), inputs["input_ids"]
    cut = int((ids[0] == family.adapter.config.image_token_id).nonzero()[-1])
    for other, fragment in (
        ({"input_ids": ids[:, :cut], "attention_mask": inputs["attention_mask"][:, :cut]}, "do not fit pixel_values"),
        ({"image_sizes": torch.tensor([[32, 64]])}, "do not fit pixel_values"),
        ({"pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1), "image_sizes": inputs["image_sizes"].repeat(2, 1)},
         "more images than input_ids have places for"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=fragment):
            pruned.generate(**{**inputs, **other}, max_new_tokens=LIMIT, do_sample=False)


@pytest.mark.parametrize(("down", "across"), [(1, 2), (2, 1), (2, 3), (3, 2), (4, 1)])
def test_tiles_are_put_together_as_the_whole_image_looks(down, across):
    whole = torch.rand(1, 3, down * 16, across * 16, generator=torch.Generator().manual_seed(1))
    tiles = whole[0].unflatten(1, (down, 16)).unflatten(3, (across, 16)).permute(1, 3, 0, 2, 4).flatten(0, 1)
    small = torch.nn.functional.interpolate(whole, (16, 16), mode="area")
    assert canvas(torch.cat([tiles, small])) == (down, across)


def byte_pairs(*special: str):
    """A byte-level tokenizer that was trained on no marks; those given are special tokens, others many tokens each."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = ["<pad>", "<s>", "</s>", "<unk>", *special]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator([" ".join(QUESTIONS), "USER: ASSISTANT:\n\n", "a row 1 of column 2\n"], trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )
    made.add_tokens(names, special_tokens=True)
    return made


def reworded(name: str, tokenizer):
    """A family's model with another tokenizer; the id of its image token is as before."""
    from harness.models.adapter import Adapter

    known, family = make(name), FAMILIES[name]
    processor = family[1]()
    own = type(processor)
    words = {"video_processor": processor.video_processor} if hasattr(processor, "video_processor") else {}
    again = own(processor.image_processor, tokenizer, image_seq_len=4, chat_template=processor.chat_template, **words)
    return Family(name, Adapter(known.adapter.model, again, name))


@pytest.mark.parametrize("shape", ["square", "tall", "wide", "two"])
@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_marks_of_many_tokens_leave_tiles_in_one_image(name, shape):
    """A byte-level tokenizer splits names of rows, the name of the whole image, and line ends."""
    family = reworded(name, byte_pairs("<image>", "<fake_token_around_image>"))
    adapter, images = family.adapter, [picture(*size) for size in SHAPES[shape]]
    assert len(adapter.tokenizer("<row_1_col_1>", add_special_tokens=False).input_ids) > 4
    inputs = family.inputs(QUESTIONS[2], images)
    (prompt,) = read(adapter, [inputs["input_ids"][0].tolist()], {part: inputs.get(part) for part in IMAGE_INPUTS})
    before, after = adapter.prompt(QUESTIONS[2], len(images))
    pixels = adapter.prompt_pixels([images])
    assert (list(prompt.prefix), list(prompt.question)) == (before, after)
    assert prompt.spans == pixels.spans[0]
    torch.testing.assert_close(prompt.pixels.to(adapter.dtype), pixels.tensors[0])


def test_an_edge_of_many_tokens_is_found_too():
    """Not even what stands around images is one token: a token may then hold the end of a mark and what follows."""
    family = reworded("smolvlm", byte_pairs("<image>"))
    images = [picture(60, 30, 2), picture(32, 32, 1)]
    inputs = family.inputs(QUESTIONS[2], images)
    ids = inputs["input_ids"][0].tolist()
    (prompt,) = read(family.adapter, [ids], {part: inputs.get(part) for part in IMAGE_INPUTS})
    assert prompt.spans[0].tiles == 3 and len(prompt.spans) == 2
    place = family.adapter.config.image_token_id
    joined = [
        place if token == VISUAL else token for token in family.adapter.prompt_prefix(list(prompt.prefix), prompt.spans).ids
    ]
    assert joined + list(prompt.question) == ids


def test_tiles_that_do_not_belong_together_are_refused():
    family = make("smolvlm")
    inputs = family.inputs(QUESTIONS[0], [picture(60, 30, 2)])
    images, ids = {part: inputs.get(part) for part in IMAGE_INPUTS}, inputs["input_ids"][0].tolist()
    words = family.adapter.tokenizer.convert_tokens_to_ids
    first, edge = words("<row_1_col_1>"), words("<fake_token_around_image>")
    last = len(ids) - 1 - ids[::-1].index(edge)
    for wrong, said in (
        ([words("<row_3_col_1>") if token == first else token for token in ids], "not row by row: <row_3_col_1>, <row_2_col_1>"),
        ([token for token in ids if token != first], "no <fake_token_around_image> and name of a tile stand before"),
        (ids[:last], "no <fake_token_around_image> stands behind"),
    ):
        with pytest.raises(RequestError, match=said):
            read(family.adapter, [wrong], images)
