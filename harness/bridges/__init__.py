"""Ways into the engine from other people's code: a pruned Hugging Face model, a model for lmms-eval, a pytest plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return what the entry point ``lmms_eval.models`` gives: the name of our model, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("prunescope", simple_class_path="harness.bridges.lmms_eval.Prunescope")
