"""Load an embedded model, a local folder or a hub id, all by the same code; what cannot be loaded is said in one line."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from harness.errors import RequestError, first_line
from harness.huggingface import OFFLINE, HubError, ask, cached, is_hub_id
from harness.huggingface import offline as hub_offline
from harness.models import companion as companions
from harness.models.adapter import Adapter
from harness.models.backbones import backbone_of
from harness.models.catalogue import EMBEDDED, TINY, plugged
from harness.models.chat_template import choose_template, read_template
from harness.models.configuration import check_configuration, read_shape, understood
from harness.models.devices import dtype_on, placed_on, whole_float32
from harness.models.families import FamilySpec, spec_of
from harness.models.load_options import NO_OPTIONS, LoadOptions
from harness.models.picture_size import picture_size
from harness.models.torchvision_ops import declare_torchvision_ops
from harness.models.towers import TowerBlock
from harness.models.weights import check_index, check_loaded, load_whole
from harness.notices import notice

__all__ = ["Adapter", "EMBEDDED", "TINY", "TowerBlock", "load"]


def load(name: str, device: str = "cpu", dtype: str = "auto", options: LoadOptions = NO_OPTIONS) -> Adapter:
    """Load an embedded model, a local folder or a hub id: the same code path for all.

    Weights come from safetensors alone, and no code of a repository is ever run.

    Args:
        name: of the model.
        device: where it runs.
        dtype: of its weights; ``auto`` is float32 on a CPU and half precision elsewhere, see `dtype_on`.
        options: what else was asked for; with a ``device_map``, ``device`` is not read.

    Raises:
        RequestError: where there is no such model, it is not whole, its architecture is not supported, or a package is missing;
            where the device has no such precision.
    """
    options.checked()
    if options.chat_template is not None:
        read_template(Path(options.chat_template))  # before anything is loaded for it
    kind = dtype_on(placed_on(device, options.placing), dtype)
    whole_float32()
    if name not in EMBEDDED and name in (points := plugged()):
        option = next(iter(options.given), None)
        if option is not None:
            raise RequestError(f"{option}: {points[name].value} makes model {name!r}, and takes a device and a dtype alone")
        return _made_by(points[name], device, kind)
    path = EMBEDDED.get(name, Path(name))
    local = _is_folder(path)
    if name in EMBEDDED and not local:
        raise RequestError(f"model {name!r}: weights are not installed at {path}")
    if not local and not is_hub_id(name):
        known = ", ".join((*EMBEDDED, *plugged()))
        raise RequestError(f"model {name!r} is neither a folder nor a hub id; embedded: {known}")
    revision = options.revision
    if local and revision is not None:
        raise RequestError(f"--revision {revision}: {name!r} is a folder, which has no revisions")
    trouble = "" if local else _trouble(name, revision)
    offline = bool(trouble)
    source = str(path) if local else name
    common: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False} | (
        {"revision": revision} if revision else {}
    )
    import transformers
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    declare_torchvision_ops()
    asking_nobody = ExitStack()  # transformers asks the hub here and there even where it is told to load local files alone
    if offline:
        asking_nobody.enter_context(hub_offline())
    try:
        spec = spec_of(name, *_model_types(source, common))
        placement = _placement(kind, options.device_map, options.quantize, spec)
        _need(f"model {name!r}", *spec.packages)
        if options.quantize is not None and read_shape(transformers.AutoConfig.from_pretrained(source, **common)).experts:
            said = f"bitsandbytes leaves experts as they are, most weights of {name!r}"
            raise RequestError(f"--quantize {options.quantize}: {said}")
        if local and not any(path.glob("*.safetensors")):
            raise ValueError("it has no .safetensors file, and other weights are not loaded, since a pickle can run code")
        model_class = getattr(transformers, spec.model_class)
        check_understood(name, model_class.config_class.from_pretrained(source, **common))  # before minutes of loading
        check_index(f"model {name!r}", source, **{key: value for key, value in common.items() if key != "trust_remote_code"})
        model = load_whole(model_class, f"model {name!r}", source, dtype=kind, **common, **placement)
        processor = transformers.AutoProcessor.from_pretrained(source, **common)  # nosec B615
        if not placement:
            model = model.to(device)
        if offline and trouble != OFFLINE:
            notice(f"model {name!r} is from the local cache, since {trouble}")
        alone = offline
        if (other := options.companion) is not None:
            alone = not _is_folder(Path(other)) and bool(_trouble(other, None))
        beside = companions.load(
            name, path if local else None, processor.tokenizer, str(model.get_input_embeddings().weight.device), kind, alone,
            vision=model.config.vision_config, given=options.companion,
        )  # fmt: skip
        adapter = Adapter(model, processor, name, beside)
        _apply(options, adapter)
        return adapter
    except RequestError:
        raise
    except Exception as error:  # a folder or a repository may hold anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        first = " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]
        if not isinstance(error, (OSError, ValueError, RuntimeError)):  # whose messages are no sentences
            first = f"{type(error).__name__}: {first}"
        if offline and (lacking := _lacking(name, revision)):
            first = f"{lacking}, and cannot be fetched ({trouble})"
        raise RequestError(f"model {name!r} cannot be loaded: {first}{_hint(name, revision, local)}") from None
    finally:
        asking_nobody.close()


def check_understood(name: str, config: Any) -> None:
    """Check a configuration alone: its family's options, its text backbone, and that it has what is read of it.

    Args:
        name: of the model, for messages.
        config: a configuration of transformers; its fields differ by family.

    Raises:
        RequestError: with the first thing that is not supported, or not there.
    """
    with understood(name, config):
        check_configuration(name, config)
        backbone_of(name, config)
        read_shape(config, name)


def _apply(options: LoadOptions, adapter: Adapter) -> None:
    """Give an adapter the chat template and the size of images that were asked for, and check that they can be used."""
    if options.chat_template is not None and adapter.spec.bare_prompt:
        kind = adapter.config.model_type
        raise RequestError(f"--chat-template {options.chat_template}: {kind} is asked without a chat template")
    adapter.template_source = choose_template(adapter.processor, options.chat_template)
    if options.chat_template is not None:
        adapter.check_template()
    adapter.picture_size = picture_size(options, adapter.processor, adapter.name)
    if isinstance(options.size, tuple):
        try:
            adapter.prompt_spans([options.size])
        except Exception as error:  # of a processor, which may refuse some shapes
            said = first_line(error)
            raise RequestError(f"--image-size {options.image_size}: {adapter.name!r} cannot take it ({said})") from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name longer than any
        return False


def _made_by(point: EntryPoint, device: str, kind: torch.dtype) -> Adapter:
    """A model of another package, or `RequestError` with what is wrong with it."""
    said = f"model {point.name!r} of {point.value}"
    try:
        made = point.load()(device, kind)
    except RequestError:
        raise
    except (Exception, SystemExit) as error:  # it is not our code that runs here
        first = str(error).splitlines()[0][:160] if str(error) else ""
        raise RequestError(f"{said} cannot be made ({type(error).__name__}: {first})") from None
    if not isinstance(made, Adapter):
        raise RequestError(f"{said} gives a {type(made).__name__}; its function must give an Adapter")
    check_loaded(said, made.model)
    return made


def _model_types(source: str, common: dict[str, Any]) -> tuple[str, str | None]:
    """The architectures of a model and its tower by its configuration, read as it stands there: unknown ones have no class."""
    from transformers import PreTrainedConfig

    found, _ = PreTrainedConfig.get_config_dict(source, **common)
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ValueError("its config.json names no model_type")
    tower = found.get("vision_config")
    return str(found["model_type"]), tower.get("model_type") if isinstance(tower, dict) else None


def _hint(name: str, revision: str | None, local: bool) -> str:
    """The command that fetches a model."""
    return "" if local else f"; where there is a network: hf download {name}" + (f" --revision {revision}" if revision else "")


def _placement(kind: torch.dtype, device_map: str | None, quantize: int | None, spec: FamilySpec) -> dict[str, Any]:
    """Options of ``from_pretrained`` for several devices and for fewer bits."""
    options: dict[str, Any] = {}
    if quantize not in (None, 4, 8):
        raise RequestError(f"--quantize {quantize}: choose 4 or 8 bits")
    if quantize is not None:
        _need(f"--quantize {quantize}", "accelerate", "bitsandbytes")
        from transformers import BitsAndBytesConfig

        bits = {"load_in_4bit": True, "bnb_4bit_compute_dtype": kind} if quantize == 4 else {"load_in_8bit": True}
        options["quantization_config"] = BitsAndBytesConfig(**bits, llm_int8_skip_modules=full_precision_modules(spec))
        device_map = device_map or "auto"
    if device_map is not None:
        _need(f"--device-map {device_map}", "accelerate")
        options["device_map"] = device_map
    return options


def full_precision_modules(spec: FamilySpec) -> list[str]:
    """Return the parts of a family's model that keep all bits, named from the model on, as transformers compares them.

    The tower and the projector are small, and methods look at what they give.
    """
    return ["lm_head", f"model.{spec.tower}", f"model.{spec.projector}"]


def _need(what: str, *packages: str) -> None:
    """`RequestError` with the command that installs what is missing, or mends what cannot be imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RequestError(f"{what} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    for package in packages:
        try:
            import_module(package)
        except (Exception, SystemExit) as error:  # of its libraries, of its torch: many kinds, one line
            first = (str(error).strip().splitlines() or [""])[0][:160]
            raise RequestError(
                f"{what} needs {package}, which is installed and cannot be imported ({type(error).__name__}: {first}): "
                f"pip install --force-reinstall {package}"
            ) from error


def _trouble(name: str, revision: str | None) -> str:
    """Why the hub does not give this model, or nothing: one request, no retries, at most 7 seconds of silence."""
    try:
        ask("model", name, revision)
    except HubError as error:
        return str(error)
    return ""


def _lacking(name: str, revision: str | None) -> str:
    """What the cache lacks of a model, or nothing: then what is wrong with it is something else."""
    snapshot = cached("model", name, revision)
    if snapshot is None:
        return "it is not in the local cache"
    files = [file for file in snapshot.files if "/" not in file and file.endswith((".json", ".safetensors"))]
    if not any(file.endswith(".safetensors") for file in files):
        return "no .safetensors file of it is in the local cache"
    if missing := snapshot.missing(files):
        return f"{', '.join(missing[:3])} of it {'are' if len(missing) > 1 else 'is'} not in the local cache"
    damaged = snapshot.damaged(files)
    return f"{damaged[0]} of it is not whole in the local cache (`--force-download` fetches it again)" if damaged else ""
