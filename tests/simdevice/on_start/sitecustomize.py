"""Python imports this when it starts: where the environment asks for pretended devices, torch sees them once it is imported."""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

NAME = "tests.simdevice.pretended"


class TorchWithDevices(Loader):
    """Loads torch as it is always loaded, and installs the devices before and behind that."""

    def __init__(self, loader: Loader, devices: int) -> None:
        self.loader, self.devices = loader, devices

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = spec_from_file_location(NAME, Path(__file__).parents[1] / "pretended.py")
        assert spec is not None and spec.loader is not None
        pretended = sys.modules[NAME] = module_from_spec(spec)  # tests import it by this name, and get this one
        spec.loader.exec_module(pretended)
        waiting = sys.modules.pop("torch")
        pretended.library()
        sys.modules["torch"] = waiting
        self.loader.exec_module(module)
        pretended.install(module, self.devices)


class TorchFinder(MetaPathFinder):
    """Finds torch alone."""

    def __init__(self, devices: int) -> None:
        self.devices = devices

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(fullname) if fullname == "torch" else None
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = TorchWithDevices(found.loader, self.devices)
        return found


if "PRUNESCOPE_PRETENDED_DEVICES" in os.environ:
    sys.meta_path.insert(0, TorchFinder(int(os.environ["PRUNESCOPE_PRETENDED_DEVICES"])))
