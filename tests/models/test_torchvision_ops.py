"""A torchvision whose compiled part does not load is imported all the same; a healthy one, or none, is left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BROKEN = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return dets
"""
PACKAGES = {
    "healthy": "version = 1",
    "broken": BROKEN,
    "otherwise broken": "raise RuntimeError('something else')",
    "absent": None,
}
SCRIPT = """
from harness.models.torchvision_ops import declare_torchvision_ops
print(declare_torchvision_ops(), declare_torchvision_ops())
try:
    import torchvision
    print("imported")
except (ImportError, RuntimeError):
    print("not imported")
"""


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("healthy", ["False False", "imported"]),
        ("broken", ["True True", "imported"]),
        ("otherwise broken", ["False False", "not imported"]),
        ("absent", ["False False", "not imported"]),
    ],
)
def test_ops_are_declared_where_torchvision_misses_them(tmp_path, package, said):
    folder = tmp_path / "torchvision"
    text, hide = PACKAGES[package], ""
    if text is None:
        hide = "import sys\nsys.modules['torchvision'] = None\n"
    else:
        folder.mkdir()
        (folder / "__init__.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    made = subprocess.run(
        [sys.executable, "-c", hide + SCRIPT], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert made.stdout.splitlines() == said
