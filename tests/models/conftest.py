"""Tiny random models of every supported family, each built from its own configuration class, with its own processor.

Nothing is downloaded and torchvision is not needed: image processors are those of the PIL backend, and a processor's video
part, which wants torchvision, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import transformers
from PIL import Image

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
_TEXT = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": SIZE, "initializer_range": 0.25, "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "initializer_range": 0.25,
}  # fmt: skip
_SIGLIP = {**_CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
_PINPOINTS = [[32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}


def _llava():
    return transformers.LlavaConfig(
        vision_config=_CLIP, text_config={"model_type": "llama", **_TEXT}, vision_feature_layer=-2,
        image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def _siglip_llava():
    return transformers.LlavaConfig(
        vision_config=_SIGLIP, text_config={"model_type": "qwen2", **_TEXT}, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def _vipllava():
    """Three tower layers, of which the deepest is neither the last nor named last."""
    return transformers.VipLlavaConfig(
        vision_config={**_CLIP, "num_hidden_layers": 4}, text_config={"model_type": "llama", **_TEXT},
        vision_feature_layers=[-4, -2, 2], image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def _granite_vision():
    """As Granite Vision: a LLaVA-NeXT around a Granite that reads several layers of a SigLIP, the last among them."""
    text = {
        **_TEXT, "model_type": "granite", "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.6,
        "logits_scaling": 4.0,
    }  # fmt: skip
    return transformers.LlavaNextConfig(
        vision_config=_SIGLIP, text_config=text, vision_feature_layer=[-4, 1, -1],
        vision_feature_select_strategy="full", image_token_id=VOCABULARY["<image>"], image_grid_pinpoints=_PINPOINTS,
    )  # fmt: skip


def _llava_next():
    return transformers.LlavaNextConfig(
        vision_config=_CLIP, text_config={"model_type": "mistral", "sliding_window": None, **_TEXT}, vision_feature_layer=-2,
        image_token_id=VOCABULARY["<image>"], image_grid_pinpoints=_PINPOINTS,
    )  # fmt: skip


def _onevision():
    return transformers.LlavaOnevisionConfig(
        vision_config=_SIGLIP, text_config={"model_type": "qwen2", **_TEXT}, image_token_id=VOCABULARY["<image>"],
        video_token_id=VOCABULARY["<video>"], image_grid_pinpoints=_PINPOINTS, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip


def _internvl():
    vision = {**_CLIP, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]}
    return transformers.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2", **_TEXT}, image_token_id=VOCABULARY["<IMG_CONTEXT>"],
    )  # fmt: skip


def _internvl35():
    """As InternVL3.5: a Qwen3 behind the tower; the tower of its larger models norms queries and keys too."""
    vision = {
        **_CLIP, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8], "attention_bias": True,
        "norm_type": "rms_norm", "use_qk_norm": True,
    }  # fmt: skip
    return transformers.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen3", **_TEXT, "head_dim": 16},
        image_token_id=VOCABULARY["<IMG_CONTEXT>"],
    )  # fmt: skip


def _qwen(kind: str, **vision):
    text = {**_TEXT, "rope_parameters": _ROPE}
    tower = {"depth": 3, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "initializer_range": 0.25, **vision}
    return getattr(transformers, kind)(
        vision_config=tower, text_config=text, image_token_id=VOCABULARY["<|image_pad|>"],
        video_token_id=VOCABULARY["<|video_pad|>"], vision_start_token_id=VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VOCABULARY["<|vision_end|>"], tie_word_embeddings=False,
    )  # fmt: skip


def _qwen2():
    return _qwen("Qwen2VLConfig", embed_dim=32, hidden_size=48, mlp_ratio=2)


def _qwen25():
    whole = {"window_size": 32, "fullatt_block_indexes": [2]}
    return _qwen("Qwen2_5_VLConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **whole)


def _qwen3():
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    made = _qwen("Qwen3VLConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **deep)
    made.text_config.head_dim = 12
    return made


def _qwen3_moe():
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    made = _qwen("Qwen3VLMoeConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **deep)
    for name, value in {"head_dim": 12, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}.items():
        setattr(made.text_config, name, value)
    made.text_config.mlp_only_layers = [1]
    return made


def smol(kind: str = "SmolVLMConfig", scale: int = 2, **tower: str):
    vision = {key: value for key, value in _CLIP.items() if key != "model_type"} | tower
    text = {"model_type": "llama", **_TEXT}
    return getattr(transformers, kind)(
        vision_config=vision, text_config=text, image_token_id=VOCABULARY["<image>"], scale_factor=scale,
    )  # fmt: skip


def _gemma(window: int = 9):
    text = {
        **_TEXT, "head_dim": 12, "sliding_window": window, "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    }  # fmt: skip
    return transformers.Gemma3Config(
        vision_config={**_SIGLIP, "image_size": 64}, text_config=text, mm_tokens_per_image=16,
        image_token_id=VOCABULARY["<image_soft_token>"],
        boi_token_index=VOCABULARY["<start_of_image>"], eoi_token_index=VOCABULARY["<end_of_image>"],
        tie_word_embeddings=False,
    )  # fmt: skip


def _pixtral():
    tower = {"image_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {"model_type": "pixtral", "patch_size": 8, "initializer_range": 0.25, **tower}


def _mistral3():
    return transformers.Mistral3Config(
        vision_config=_pixtral(), text_config={"model_type": "mistral", "sliding_window": None, **_TEXT, "head_dim": 12},
        image_token_index=VOCABULARY["[IMG]"], spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip


def _pixtral_llava():
    return transformers.LlavaConfig(
        vision_config=_pixtral(), text_config={"model_type": "mistral", "sliding_window": None, **_TEXT, "head_dim": 12},
        image_token_id=VOCABULARY["[IMG]"], vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def _paligemma(second: bool):
    """Gemma 2 with windows that are shorter than a prompt, and bounds that scores and logits reach."""
    text = {**_TEXT, "head_dim": 12, "model_type": "gemma"}
    if second:
        text |= {
            "model_type": "gemma2", "sliding_window": 9, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        }  # fmt: skip
    return transformers.PaliGemmaConfig(
        vision_config=_SIGLIP, text_config=text, image_token_index=VOCABULARY["<image>"], projection_dim=48, hidden_size=48,
        tie_word_embeddings=False,
    )  # fmt: skip


def tokenizer(pieces: bool = False, **names: str):
    """One token a word or a run of line ends; the marks of all families are special tokens.

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


def _processor(kind: str, images, mark: str, names: dict[str, str], pieces: bool = False, **options):
    """A processor of its own class; only the check of its parts' classes is left out, for want of a video part."""
    own = getattr(transformers, kind)
    lenient = type(kind, (own,), {"check_argument_for_proper_class": lambda self, name, value: type(value)})
    if "video_processor" in own.get_attributes():
        options["video_processor"] = SimpleNamespace(num_frames=1, fps=1, size=None)
    words, template = tokenizer(pieces, **names), TEMPLATE.replace("MARK", mark)
    return lenient(image_processor=images, tokenizer=words, chat_template=template, **options)


_SQUARE = {"size": {"height": 32, "width": 32}, "do_center_crop": False, "do_convert_rgb": True}


def _clip_images():
    return transformers.CLIPImageProcessorPil(**_SQUARE)


def _siglip_images():
    return transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})


def _tiles(kind: str):
    options = {"size": {"shortest_edge": 32} if "Next" in kind else {"height": 32, "width": 32}}
    if "Next" in kind:
        options["crop_size"] = {"height": 32, "width": 32}
    return getattr(transformers, kind)(image_grid_pinpoints=_PINPOINTS, **options)


def _smol_images(kind: str):
    return getattr(transformers, kind)(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})


def _qwen_processor(kind: str):
    images = transformers.Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=16 * 16, max_pixels=64 * 64)
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return _processor(kind, images, mark, {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"})


def _next_processor(siglip: bool = False):
    facts = {"patch_size": 8, "vision_feature_select_strategy": "full" if siglip else "default"}
    facts["num_additional_image_tokens"] = 0 if siglip else 1
    return _processor("LlavaNextProcessor", _tiles("LlavaNextImageProcessorPil"), "<image>", {}, **facts)


def _llava_processor(siglip: bool = False):
    facts = {"patch_size": 8, "vision_feature_select_strategy": "full" if siglip else "default"}
    images = _siglip_images() if siglip else _clip_images()
    return _processor("LlavaProcessor", images, "<image>", {}, num_additional_image_tokens=0 if siglip else 1, **facts)


def _onevision_processor():
    facts = {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_2"}
    return _processor("LlavaOnevisionProcessor", _tiles("LlavaOnevisionImageProcessorPil"), "<image>", {}, **facts)


def _internvl_processor():
    images = transformers.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    names["video_token"] = "<video>"
    return _processor("InternVLProcessor", images, "<IMG_CONTEXT>", names, image_seq_length=4)


def _smol_processor():
    import transformers.models.smolvlm.processing_smolvlm as module

    module.num2words = module.num2words or (lambda number: str(number))  # only videos need it
    names = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "video_token": "<video>"}
    return _processor("SmolVLMProcessor", _smol_images("SmolVLMImageProcessorPil"), "<image>", names, image_seq_len=4)


def _gemma_processor():
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    images = transformers.Gemma3ImageProcessorPil(size={"height": 64, "width": 64})
    return _processor("Gemma3Processor", images, "<start_of_image>", names, image_seq_length=16)


def _pixtral_processor(merge: int):
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size=8)
    return _processor("PixtralProcessor", images, "[IMG]", {}, patch_size=8, spatial_merge_size=merge)


def _paligemma_processor():
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    made = _processor("PaliGemmaProcessor", images, "<image>", {"image_token": "<image>"})
    made.chat_template = None
    return made


FAMILIES: dict[str, tuple[Callable, Callable]] = {
    "llava": (_llava, _llava_processor),
    "llava-siglip": (_siglip_llava, lambda: _llava_processor(True)),
    "llava-next": (_llava_next, _next_processor),
    "llava-onevision": (_onevision, _onevision_processor),
    "internvl": (_internvl, _internvl_processor),
    "qwen2-vl": (_qwen2, lambda: _qwen_processor("Qwen2VLProcessor")),
    "qwen2.5-vl": (_qwen25, lambda: _qwen_processor("Qwen2_5_VLProcessor")),
    "qwen3-vl": (_qwen3, lambda: _qwen_processor("Qwen3VLProcessor")),
    "qwen3-vl-moe": (_qwen3_moe, lambda: _qwen_processor("Qwen3VLProcessor")),
    "smolvlm": (smol, _smol_processor),
    "idefics3": (
        lambda: smol("Idefics3Config", model_type="idefics3"),
        lambda: _processor(
            "Idefics3Processor", _smol_images("Idefics3ImageProcessorPil"), "<image>", {}, pieces=True, image_seq_len=4
        ),
    ),
    "gemma3": (_gemma, _gemma_processor),
    "vipllava": (_vipllava, _llava_processor),
    "granite-vision": (_granite_vision, lambda: _next_processor(True)),
    "internvl3.5": (_internvl35, _internvl_processor),
    "mistral3": (_mistral3, lambda: _pixtral_processor(2)),
    "llava-pixtral": (_pixtral_llava, lambda: _pixtral_processor(1)),
    "paligemma": (lambda: _paligemma(False), _paligemma_processor),
    "paligemma2": (lambda: _paligemma(True), _paligemma_processor),
}
SECOND_STAGE = (
    "qwen3-vl-moe", "vipllava", "granite-vision", "internvl3.5", "mistral3", "llava-pixtral", "paligemma", "paligemma2",
)  # fmt: skip
"""Families whose tests run where everything behind extras is installed: most of their own processors need torchvision."""


def parameters(names: Iterable[str] = FAMILIES) -> list:
    """Names of families for ``parametrize``."""
    later = [pytest.mark.families, pytest.mark.needs("torchvision")]
    return [pytest.param(name, marks=later if name in SECOND_STAGE else []) for name in names]


PARAMS = parameters()


def build(config, seed: int = 0):
    """A random model whose attention is not uniform; what is initialised to a constant, or nearly, is stirred too."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() > 1 and float(weight.std()) < 0.1:
                noise = torch.randn_like(weight) * (0.1 if weight.dim() == 1 else 0.25)
                weight.copy_(weight.mean() + noise if weight.dim() == 1 else noise)
        for mark in SPECIAL:
            if mark != "</s>":  # an answer that holds an image's mark would be taken for an image by the slow reference
                model.lm_head.weight[VOCABULARY[mark]] = 0
    model.generation_config.eos_token_id = VOCABULARY["</s>"]
    model.generation_config.pad_token_id = VOCABULARY["<pad>"]
    return model


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Coloured noise in large patches."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=g)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")[0].permute(1, 2, 0)
    return Image.fromarray((pixels * 255).byte().numpy())


@dataclass
class Family:
    """A tiny model, and how transformers itself runs it."""

    name: str
    adapter: object

    @property
    def nests(self) -> bool:
        """Whether its processor wants the images of each prompt in a list of their own."""
        return self.name in ("smolvlm", "idefics3", "gemma3", "llava-onevision", "paligemma", "paligemma2")

    @property
    def bare(self) -> bool:
        """Whether prompts are images and a question alone, and all of a prompt is one block that sees itself."""
        return self.name.startswith("paligemma")

    def text(self, question: str, images: int = 1) -> str:
        if self.bare:
            return "<image>" * images + question
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        return self.adapter.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def inputs(self, question: str, images: list[Image.Image]):
        """What the family's own processor makes of a prompt."""
        text = self.text(question, len(images))
        options = {"return_tensors": "pt", "add_special_tokens": False}
        if not images and self.bare:  # its processor makes no prompt without one
            return self.adapter.tokenizer(f"<s>{text}\n", return_token_type_ids=True, **options)
        if not images:
            return self.adapter.tokenizer(text, **options)
        made = self.adapter.processor(images=[images] if self.nests else images, text=[text], **options)
        made.pop("labels", None)  # for training
        return made

    @torch.inference_mode()
    def generated(self, question: str, images: list[Image.Image], limit: int = 5) -> list[int]:
        """The greedy answer of ``model.generate``, end token left out."""
        inputs = self.inputs(question, images)
        out = self.adapter.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        ids = out[0, inputs["input_ids"].shape[1] :].tolist()
        return ids[: ids.index(2)] if 2 in ids else ids

    @torch.inference_mode()
    def forward(self, question: str, images: list[Image.Image]) -> torch.Tensor:
        """Logits of the first answer token, by the model's own forward."""
        return self.adapter.model(**self.inputs(question, images)).logits[0, -1]


@dataclass
class Asked:
    """A batch of prompts, two questions each, and what was asked about which images."""

    batch: object
    questions: list[str]
    images: list[list[Image.Image]]  # by question


def ask(family: Family, prompts: list[list[Image.Image]], each: int = 2) -> Asked:
    """Questions about prompts of as many images each, in one batch."""
    from harness.engine.batch import Batch

    adapter, owner = family.adapter, [i for i in range(len(prompts)) for _ in range(each)]
    words = [QUESTIONS[i % len(QUESTIONS)] for i in range(len(owner))]
    made = [adapter.prompt(word, len(prompts[0])) for word in words]
    batch = Batch(
        adapter.prompt_pixels(prompts), made[0][0], [after for _, after in made], torch.tensor(owner),
        torch.arange(len(prompts)) + 7, torch.arange(len(owner)) + 70,
    )  # fmt: skip
    return Asked(batch, words, [prompts[i] for i in owner])


@pytest.fixture(scope="session")
def alike(family) -> Asked:
    """Two images of one size."""
    return ask(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]])


@pytest.fixture(scope="session")
def unequal(family) -> Asked:
    """Images of three sizes; most families make different numbers of visual tokens of them."""
    return ask(family, [[picture(32, 32, 1)], [picture(60, 30, 2)], [picture(30, 90, 3)], [picture(32, 32, 4)]], 1)


@pytest.fixture(scope="session")
def several(family) -> Asked:
    """Two images a prompt, of different sizes."""
    return ask(family, [[picture(32, 32, 1), picture(60, 30, 2)], [picture(30, 90, 3), picture(20, 20, 4)]])


@cache
def make(name: str) -> Family:
    """A family's tiny model, built once."""
    from harness.models.adapter import Adapter

    config, processor = FAMILIES[name]
    return Family(name, Adapter(build(config()), processor(), name))


@pytest.fixture(scope="session", params=PARAMS)
def family(request) -> Family:
    return make(request.param)


@pytest.fixture(scope="session")
def llava() -> Family:
    return make("llava")
