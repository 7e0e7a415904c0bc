"""The command line: which commands there are, and how each ends.

The commands stand in `measuring`, `profiling`, `stored_runs`, `listing`, `publishing`, `doctor` and `checking_machine`.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import typer

from harness import interrupts
from harness.cli import checking_machine, doctor, listing, measuring, profiling, publishing, reproducing, stored_runs
from harness.errors import RequestError, readable, unexpected

app = typer.Typer(
    name="harness",
    help="Measure visual token pruning methods on vision-language models.",
    epilog="Exit codes: 0 done, 1 a gate failed (regress) or a machine differs (selfcheck), 2 the request was wrong, "
    "3 done but some samples failed, 70 a fault of prunescope, 130 interrupted. `prunescope` is the same command, with "
    "completion: --install-completion.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    (measuring.compare, "compare --methods sts,fastv,random --keep 192,64 --samples 24 --out runs/first"),
    (stored_runs.report, "report runs/first runs/second --out both.html"),
    (stored_runs.explain, "explain runs/first"),
    (reproducing.reproduce, "reproduce prunescope-tiny --out runs/reproduced"),
    (measuring.select, "select fastv cases/*.npz --keep 64 --out kept"),
    (measuring.capture, "capture --model tiny --task shapes --samples 4 --out cases"),
    (profiling.profile, "profile --model llava-1.5-7b --random-weights --layers 4 --batch-size 1,4 --out profiled"),
    (measuring.flops, "flops --shape llava-1.5-7b --method fastv --keep 64 --text-tokens 35"),
    (listing.list_names, "list methods"),
    (publishing.published, "published --method fastv --task pope"),
    (doctor.print_findings, "doctor"),
    (checking_machine.selfcheck, "selfcheck --device cpu"),
    (stored_runs.regress, "regress runs/baseline runs/candidate --markdown regression.md"),
    (stored_runs.samples, "samples runs/first --method fastv --wrong --evidence-lost"),
    (stored_runs.open_run, "open runs/first --port 8080"),
)
"""Each command with its example, whose first word is the command's name; in the order of the help."""

for _command, _example in COMMANDS:
    app.command(_example.split()[0], epilog=f"\b\nExample:\n  python -m harness {_example}")(_command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit codes: 0 done, 1 a gate failed or a machine differs, 2 wrong request, 3 done but samples failed, 70 a fault of ours,
    130 interrupted.
    """
    completes = sys.argv[1:2] in (["--install-completion"], ["--show-completion"])  # of the installed name alone
    name = "prunescope" if completes or Path(sys.argv[0]).stem == "prunescope" else "python -m harness"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    interrupts.heed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that knows few characters
            stream.reconfigure(errors="replace")
    usage: type[Any] = typer.BadParameter.__mro__[2]  # typer's ClickException, wherever its click lives
    try:
        code = app(args=arguments, standalone_mode=False, prog_name=name)
        sys.stdout.flush()
        interrupts.check()
    except (interrupts.Interrupted, KeyboardInterrupt, typer.Abort) as error:
        interrupts.leave(str(error))
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if interrupts.asked():  # and was made into this on its way
            interrupts.leave()
        if isinstance(error, RequestError):
            if error.__cause__ is not None and os.environ.get("PRUNESCOPE_DEBUG"):
                traceback.print_exc()
            _fail(str(error))
        if isinstance(error, usage):
            _fail(error.format_message())
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None:
            _fail(f"the output cannot be written ({error.strerror})")
        if os.environ.get("PRUNESCOPE_DEBUG"):
            traceback.print_exc()
        print(f"{unexpected(error)}\nwhat is stored stays; PRUNESCOPE_DEBUG=1 shows the traceback", file=sys.stderr)
        sys.exit(70)
    if code == interrupts.CODE:  # what typer makes of Ctrl-C
        interrupts.leave()
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    print(f"error: {readable(message)}", file=sys.stderr)
    sys.exit(2)
