"""`doctor` calls usable what can be imported, and a model that needs what cannot is refused with the reason."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest

from harness.cli import doctor, importing
from harness.errors import RequestError
from harness.models import hf

FAULTS = {
    "raises": ("raise AttributeError('partially initialized module')", "AttributeError: partially initialized module"),
    "lacks": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
    "leaves": ("raise SystemExit(3)", "SystemExit: 3"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its import ends the process by signal 11"),
    "hangs": ("import time; time.sleep(60)", "its import takes more than 1 s"),
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installed packages whose imports end in different ways."""
    for name, (code, _) in {**FAULTS, "sound": ("version = 1", "")}.items():
        (tmp_path / f"made_up_{name}.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(importing, "_WITHIN", 1.0)
    yield
    for name in [name for name in sys.modules if name.startswith("made_up_")]:
        del sys.modules[name]


def test_how_an_import_ends_is_said_and_harms_nobody(packages):
    found = importing.faults_of([*(f"made_up_{name}" for name in FAULTS), "made_up_sound", "made_up_absent"])
    assert found == {f"made_up_{name}": said for name, (_, said) in FAULTS.items()}
    assert os.getpid() and not any(name.startswith("made_up_") for name in sys.modules)


def test_what_cannot_be_imported_is_not_called_usable(packages, monkeypatch):
    extras = {"one": {"made-up-sound": "", "made-up-raises": ""}, "two": {"made-up-sound": ""}, "three": {"made-up-absent": ""}}
    monkeypatch.setattr(doctor, "_requirements", lambda: ({"made-up-lacks": ""}, extras))
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "made-up-absent" else "1.2")
    monkeypatch.setattr(doctor, "_of_families", list)
    monkeypatch.setattr(importing, "_WITHIN", 60.0)
    found = doctor.doctor()
    assert found["made-up-lacks"].startswith("1.2, but cannot be imported (No module named 'no_such")
    assert found["extra one"].startswith("made-up-raises 1.2 cannot be imported (AttributeError: partially initialized module)")
    assert found["extra two"] == "usable (made-up-sound 1.2)"
    assert found["extra three"] == "missing made-up-absent: pip install 'prunescope[three]'"


def test_a_broken_torchvision_is_shown_with_its_reason_and_so_are_the_families_that_need_it(tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(doctor, "_requirements", lambda: ({}, {}))
    monkeypatch.setattr(doctor, "_version", lambda name: "0.28.0")
    found, reason = doctor.doctor(), "RuntimeError: libcudart.so.13: cannot open shared object file"
    assert found["torchvision"] == (f"0.28.0, but cannot be imported ({reason}): pip install --force-reinstall torchvision")
    assert f"torchvision cannot be imported ({reason})" in found["family qwen2_vl"]
    assert found["family llava"] == "usable"


def test_a_model_that_needs_a_broken_package_is_refused_with_the_reason(packages):
    with pytest.raises(RequestError) as caught:
        hf._need("model 'x'", "made_up_raises")
    assert "needs made_up_raises, which is installed and cannot be imported (AttributeError: partially" in str(caught.value)
    assert "pip install --force-reinstall made_up_raises" in str(caught.value)
    hf._need("model 'x'", "made_up_sound")
