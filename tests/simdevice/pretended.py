"""A pretended CUDA device: built once with g++, put under torch before it is imported, and a counter of what it was asked to do.

What it is stands in `pretended.cpp`. A process that has it cannot lose it again, and sees a machine with a GPU: so tests under
``tests/simdevice`` run in a process of their own (`conftest.py`). Any Python has it whose environment is `environment`'s: then
`on_start/sitecustomize.py` installs it when torch is imported, in processes that such a one starts, too.

It shows on which device a tensor is, what is launched and what is waited for. It does not show what a GPU's own kernels add up
to, which dtypes they take, streams, or time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

HERE = Path(__file__).parent
SOURCE = HERE / "pretended.cpp"
DEVICES = "PRUNESCOPE_PRETENDED_DEVICES"
"""Variable of the environment: how many devices a process sees; where it is not set, there are none."""
_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)


def environment(devices: int = 2, of: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that sees pretended devices.

    Triton's interpreter is left out of it: where it is there, selections on a device would run in it, slowly.
    """
    root = HERE.parents[1]
    paths = [str(HERE / "on_start"), str(root), *filter(None, [of.get("PYTHONPATH")])]
    rest = {name: value for name, value in of.items() if name != "TRITON_INTERPRET"}
    return {**rest, DEVICES: str(devices), "PYTHONPATH": os.pathsep.join(paths)}


def _torch() -> Path:
    """The folder of torch, which is not imported for it."""
    found = find_spec("torch")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def built() -> Path:
    """Return the library, compiled (some 20 seconds) where it was not yet for this source and this torch.

    Raises:
        RuntimeError: with what the compiler says.
    """
    import fcntl

    own = hashlib.sha256(SOURCE.read_bytes() + version("torch").encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunescope-tests"
    library = folder / f"pretended-{own}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes of one test run
        if not library.exists():
            torch, partial = _torch(), library.with_suffix(f".{os.getpid()}")
            includes = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
            libraries = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
            command = ["g++", "-O1", "-std=c++20", "-fPIC", "-shared", *includes, str(SOURCE), "-o", str(partial), *libraries]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"the pretended device cannot be built:\n{done.stderr[-2000:]}")
            partial.replace(library)
    return library


@cache
def library() -> ctypes.CDLL:
    """Return the loaded library; torch must not have been imported before the first call, since it asks for CUDA once."""
    assert "torch" not in sys.modules, "the pretended device must be there before torch is"
    path, place = built(), _torch() / "lib"
    for name in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so", "libtorch.so"):
        ctypes.CDLL(str(place / name), mode=ctypes.RTLD_GLOBAL)
    found = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for figure in (found.pretended_live, found.pretended_peak):
        figure.restype = ctypes.c_int64
    return found


class PretendedCard:
    """What torch says of a device; tests may set another ``capability``: before 8.0 no card has bfloat16."""

    name, total_memory, multi_processor_count, gcnArchName, is_integrated = "Pretended", 16 * 2**30, 132, "", False
    capability = (9, 0)
    major, minor = property(lambda self: self.capability[0]), property(lambda self: self.capability[1])


def install(torch: ModuleType, devices: int) -> None:
    """Let torch, imported after `library` was loaded, see so many devices."""
    own = library()
    own.pretended_install()
    own.pretended_set_devices(devices)
    cuda: Any = torch.cuda

    def at(device: Any = None) -> int:
        found: int = cuda._utils._get_device_index(device, optional=True)
        if found >= own.pretended_devices():
            raise RuntimeError("CUDA error: invalid device ordinal")
        return found

    def set_device(device: Any) -> None:
        own.pretended_exchange(at(device))

    def exchange(index: int) -> int:
        before: int = own.pretended_exchange(index)
        return before

    def bf16(including_emulation: bool = True) -> bool:
        return including_emulation or PretendedCard.capability >= (8, 0)

    nothing = lambda *given, **named: None
    cuda._initialized = True
    given: dict[str, Any] = {
        "_lazy_init": nothing, "_is_compiled": lambda: True, "is_available": lambda: True, "is_initialized": lambda: True,
        "device_count": lambda: own.pretended_devices(), "current_device": lambda: own.pretended_current(),
        "set_device": set_device, "_exchange_device": exchange, "_maybe_exchange_device": exchange,
        "is_bf16_supported": bf16, "get_device_name": lambda device=None: f"{PretendedCard.name} {at(device)}",
        "get_device_capability": lambda device=None: (at(device), PretendedCard.capability)[1],
        "get_device_properties": lambda device=None: (at(device), PretendedCard())[1],
        "mem_get_info": lambda device=None: (8 * 2**30, 16 * 2**30),
        "synchronize": lambda device=None: Counted.waited_explicitly(),
        "empty_cache": nothing, "manual_seed": nothing, "manual_seed_all": nothing, "is_current_stream_capturing": lambda: False,
    }  # fmt: skip
    memory = {
        "memory_allocated": lambda device=None: own.pretended_live(at(device)),
        "max_memory_allocated": lambda device=None: own.pretended_peak(at(device)),
        "reset_peak_memory_stats": lambda device=None: own.pretended_reset_peak(at(device)),
    }
    memory |= {"memory_reserved": memory["memory_allocated"], "max_memory_reserved": memory["max_memory_allocated"]}
    for name, function in (given | memory).items():
        setattr(cuda, name, _own(function))
    for name in memory:
        setattr(cuda.memory, name, getattr(cuda, name))
    for name in ("_cuda_getCurrentRawStream", "_cuda_getCurrentStream", "_cuda_synchronize"):
        if not hasattr(torch._C, name):
            setattr(torch._C, name, lambda *given: 0)
    torch._C._cuda_isCurrentStreamCapturing = lambda: False
    cuda._is_in_bad_fork = lambda: False
    os.register_at_fork(after_in_child=own.pretended_forked)  # CUDA does not work in a fork of a process that has used it


def _own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as an object of its own: torch keeps rules by function, and takes no two for one."""
    return lambda *given, **named: function(*given, **named)


def set_devices(count: int) -> None:
    """Let this process see more devices or fewer from now on."""
    library().pretended_set_devices(count)


class Counted:
    """Counts what a block of code asks of the device, and where.

    Args:
        packages: names of folders; a launch is booked on the innermost line of theirs that led to it, else on the innermost
            line outside of torch.

    Attributes:
        launches: ops that a card runs as a kernel or a copy of its own; views and empty tensors are none.
        synchronisations: those of them for which the host waits: a value or a size that it reads, a copy from memory that is
            not pinned.
        calls: of `torch.cuda.synchronize`, which are not counted among them.
        lines: launches by place, ``harness/engine/layout.py:12``.
        waits: synchronisations by place and op.
        ops: launches by op.
        atomics: by place and op, sums that threads of a card add up in no fixed order.
    """

    _open: list[Counted] = []

    def __init__(self, *packages: str) -> None:
        self.packages = packages or ("harness", "methods", "metrics")
        self.launches = self.synchronisations = self.calls = 0
        self.lines: Counter[str] = Counter()
        self.ops: Counter[str] = Counter()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.atomics: Counter[tuple[str, str]] = Counter()
        self._listener = _LISTENER(self._hear)

    def __enter__(self) -> Counted:
        Counted._open.append(self)
        library().pretended_listen(self._listener)
        return self

    def __exit__(self, *rest: object) -> None:
        Counted._open.pop()
        library().pretended_listen(Counted._open[-1]._listener if Counted._open else _LISTENER())

    @classmethod
    def waited_explicitly(cls) -> None:
        """Note a call of `torch.cuda.synchronize`."""
        if cls._open:
            cls._open[-1].calls += 1

    def _hear(self, kind: int, name: bytes) -> None:
        op, place = name.decode(), self._place(sys._getframe(1))
        if kind == 3:
            self.atomics[place, op] += 1
            return
        self.launches += 1
        self.lines[place] += 1
        self.ops[op] += 1
        if kind == 2:
            self.synchronisations += 1
            self.waits[place, op] += 1

    def _place(self, frame: FrameType | None) -> str:
        outside = None
        while frame is not None:
            name = frame.f_code.co_filename
            if outside is None and "/torch/" not in name:
                outside = f"{'/'.join(Path(name).parts[-3:])}:{frame.f_lineno}"
            if "site-packages" not in name:
                for package in self.packages:
                    at = name.rfind(f"/{package}/")
                    if at >= 0:
                        return f"{name[at + 1 :]}:{frame.f_lineno}"
            frame = frame.f_back
        return outside or "?"
