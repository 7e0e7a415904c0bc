"""What the embedded model is made of: configurations, tokenizer, processor, companion text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip import CLIPImageProcessorPil as ImageProcessor

from harness.tasks.shapes.questions import vocabulary
from harness.tasks.shapes.scene import GRID, PATCH

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:")
WIDTH = 128
"""Width of tower and LLM."""
JOINT = 64
"""Width of the joint image-text space."""
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %} USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% else %} ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def words() -> tuple[str, ...]:
    """Return the vocabulary; a word's index is its token id."""
    return (*SPECIAL, *vocabulary())


def config() -> LlavaConfig:
    """Return the configuration: LLaVA with a CLIP tower of 24 x 24 tokens and a Llama of 12 thin layers."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=GRID * PATCH,
        patch_size=PATCH,
        projection_dim=JOINT,
    )
    text = LlamaConfig(
        vocab_size=len(words()),
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    facts: dict[str, Any] = {  # of a configuration, whose signature is generated and does not name all of them
        "vision_config": vision,
        "text_config": text,
        "image_token_id": SPECIAL.index("<image>"),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": GRID * GRID,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    return LlavaConfig(**facts)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a word, split at white space."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words())}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def image_processor() -> ImageProcessor:
    """Return the image processor: images of 192 x 192 pixels, normalised as CLIP's are."""
    side = GRID * PATCH
    return ImageProcessor(
        do_resize=True,
        size={"height": side, "width": side},
        do_center_crop=False,
        do_convert_rgb=True,
    )


def processor() -> LlavaProcessor:
    """Return the processor: image processor, tokenizer and chat template."""
    return LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


class CompanionText(nn.Module):
    """The text side of the joint space, and the projection of tower states into it.

    ``text`` gives ``text_embeds`` [B, JOINT]; ``visual_projection`` maps the tower's last states,
    after its final norm, [B, N, WIDTH] to [B, N, JOINT].
    """

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(words()),
                hidden_size=WIDTH,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=48,
                projection_dim=JOINT,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
        self.visual_projection = nn.Linear(WIDTH, JOINT, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))


def new_model(seed: int = 0) -> tuple[LlavaForConditionalGeneration, CompanionText]:
    """Make an untrained model with smooth position embeddings, and its companion."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config())
    tower: Any = model.model.vision_tower  # of transformers
    with torch.no_grad():
        scale = tower.embeddings.patch_embedding.weight.flatten(1).norm(dim=1).mean()
        tower.embeddings.position_embedding.weight[1:] = torch.from_numpy(_smooth_positions()) * scale * 0.7
        tower.embeddings.position_embedding.weight[0] = 0
    return model, CompanionText()


def _smooth_positions() -> NDArray[np.float32]:
    """Sines and cosines of row and column, float32 [576, WIDTH]; neighbours look alike, so grids can be resized."""
    frequencies = np.pi * 2 ** np.linspace(-1, 3.5, WIDTH // 4)
    centres = (np.arange(GRID) + 0.5) / GRID
    waves = np.concatenate([np.sin(centres[:, None] * frequencies), np.cos(centres[:, None] * frequencies)], axis=1)
    rows, columns = np.repeat(waves, GRID, axis=0), np.tile(waves, (GRID, 1))
    smooth: NDArray[np.float32] = (np.concatenate([rows, columns], axis=1) * np.sqrt(2) / 2).astype(np.float32)
    return smooth


def save(model: LlavaForConditionalGeneration, companion: CompanionText, folder: Path) -> None:
    """Write an ordinary Hugging Face folder in bfloat16, with ``companion/`` beside the model."""
    import copy

    folder.mkdir(parents=True, exist_ok=True)
    stored: Any = copy.deepcopy(model)  # a model of transformers, whose `to` has a signature that mypy cannot follow
    stored.to(torch.bfloat16).save_pretrained(folder)
    processor().save_pretrained(folder)
    companion_folder = folder / "companion"
    companion_folder.mkdir(exist_ok=True)
    from safetensors.torch import save_file

    text: Any = copy.deepcopy(companion.text)  # as above
    text.to(torch.bfloat16).save_pretrained(companion_folder)
    save_file(
        {"visual_projection.weight": companion.visual_projection.weight.detach().to(torch.bfloat16).contiguous()},
        companion_folder / "visual_projection.safetensors",
    )
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def load_into(model: LlavaForConditionalGeneration, companion: CompanionText, folder: Path) -> None:
    """Fill a model and its companion from a folder that `save` wrote."""
    from safetensors.torch import load_file

    given: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}  # of ``from_pretrained``
    model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(folder, **given).state_dict())  # nosec B615
    inner = CLIPTextModelWithProjection.from_pretrained(folder / "companion", **given)  # nosec B615
    companion.text.load_state_dict(inner.state_dict())
    projection = load_file(folder / "companion" / "visual_projection.safetensors")["visual_projection.weight"]
    companion.visual_projection.weight.data.copy_(projection.float())
