"""All parts of the check of a machine, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from harness.errors import RequestError
from harness.models.devices import has_bfloat16, names_of, pick_device, tf32_allowed, whole_float32
from harness.run.machine_check.against_cpu import METHODS as FAMILY_METHODS
from harness.run.machine_check.against_cpu import TEN, check_against_cpu
from harness.run.machine_check.against_reference import check_against_reference
from harness.run.machine_check.attention_kernels import check_attention
from harness.run.machine_check.clocks import check_clocks
from harness.run.machine_check.findings import MachineFindings, PartFindings
from harness.run.machine_check.machine_facts import machine_facts
from harness.run.machine_check.reference_cases import DTYPES, ReferenceQuestions
from harness.run.machine_check.stored_results import read
from harness.run.machine_check.synchronisations import check_synchronisations


def check_machine(
    device: str = "auto",
    methods: Sequence[str] | None = None,
    families: Sequence[str] = TEN,
    family_methods: Sequence[str] = FAMILY_METHODS,
) -> MachineFindings:
    """Check whether a device of this machine computes what the machine of the stored results did.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        methods: of `reference_cases.METHODS` that are held against the stored results; all where not given.
        families: that are held against the CPU.
        family_methods: under which they are.

    Raises:
        RequestError: where there is no such device, or nothing readable is stored.
    """
    began, place = time.perf_counter(), pick_device(device)
    reference, log = read()
    whole_float32()
    parts: list[PartFindings] = []

    def timed(name: str, check: Callable[[], PartFindings]) -> None:
        start = time.perf_counter()
        try:
            part = check()
        except RequestError:
            raise
        except Exception as error:  # of what the machine computes with; it is told, and the other parts are checked
            first = str(error).splitlines()[0][:120] if str(error) else ""
            part = PartFindings(name, "", [f"fails ({type(error).__name__}: {first})"])
        part.seconds = time.perf_counter() - start
        parts.append(part)

    lacks = torch.device(place).type == "cuda" and not has_bfloat16(place)
    for dtype in DTYPES:
        if dtype == "bfloat16" and lacks:
            said = "not checked: this card has no bfloat16, which torch would emulate"
            parts.append(PartFindings(f"methods in {dtype}", "", said=[said]))
        else:
            timed(f"methods in {dtype}", partial(check_against_reference, reference, place, dtype, methods))
    timed("random families", lambda: check_against_cpu(place, families, family_methods))
    questions = ReferenceQuestions(place, "float32")

    def attention(dtype: str) -> PartFindings:
        return check_attention(questions if dtype == "float32" else ReferenceQuestions(place, dtype))

    timed("clocks", lambda: check_clocks(questions))
    for dtype in DTYPES:
        if dtype != "bfloat16" or not lacks:
            timed(f"attention in {dtype}", partial(attention, dtype))
    timed("synchronisations", lambda: check_synchronisations(questions))
    machine = machine_facts()
    if questions.adapter.device.type == "cuda":
        machine["tf32"] = tf32_allowed()
    return MachineFindings(names_of(questions.adapter.devices), machine, log, parts, time.perf_counter() - began)
