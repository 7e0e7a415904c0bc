"""Write the model card from a run: ``python -m harness.models.tiny.card RUN``."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.errors import RequestError
from harness.store.runs import RunFolder

_TEXT = """# The embedded model

A LLaVA small enough to ship: a CLIP tower (width 128, 6 layers, patch 8, 24 x 24 = 576 visual tokens and CLS, read at
its second-last layer), an MLP projector, and a Llama of 12 thin layers (width 128, 4 heads), trained by this
repository on the bundled task `shapes`. Word-level vocabulary of {vocabulary} tokens. {parameters:.1f} million
parameters, stored in bfloat16. It is an ordinary Hugging Face folder (`weights/`) and loads like any LLaVA.
`weights/companion/` holds the text encoder that the tower was trained against, and the projection into their joint space.

It exists to measure pruning: its answers come from the image, each answer's place is known, and it was trained with
tokens left out, pooled, and images shrunk, so that a method is judged by the information it keeps and not by surprise.
It knows nothing else. Its training images, questions and handwriting share none with the test split.

## Scores

{images} test scenes, {questions} questions, exact match, percent (95 % interval over images for all questions):

{table}

{verdict}

Reproduce with

```sh
{command} --out runs/card
python -m harness.models.tiny.card runs/card
```

## Training

`python -m harness.models.tiny.train --work DIR` (resumable; `--export DIR` writes the folder). Three stages on a CPU:

1. `tower`: canvases of 12 x 12 tokens at random places of the position grid; linear heads for kind, colour, digit, place in
   the number strip and position, and a contrastive loss between CLS and the caption's text encoding. Two canvases in three
   draw their writings wider, taller, leaning or shifted.
2. `scenes`: the same on full scenes of 24 x 24 tokens, every third batch shrunk to 8 to 20 tokens a side.
3. `language`: projector and Llama on the frozen tower; fourteen questions a sequence under a block mask; most steps leave
   tokens out (with original or renumbered positions), some pool, some shrink, some see everything.

The tower is frozen in stage 3, as in LLaVA-1.5, so that it has no reason to spread an answer over tokens far from its place.
The weights went through the stages twice: from scratch, then again from what that gave (`--init harness/models/tiny/weights
--tower-steps 900 --tower-rate 4e-4 --scenes-steps 350 --scenes-rate 3e-4 --language-steps 3000`), about three hours of two
cores in all. `log.jsonl` holds both rounds, restarts included; the second: {steps}. In the first round the number of steps
and the mix of questions were changed on the way, so the script does not repeat it bit for bit.
"""


def main() -> None:
    """Write the card from the run folder that the command line names, and print it."""
    parser = argparse.ArgumentParser(prog="python -m harness.models.tiny.card", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of the embedded model on its task")
    run = RunFolder(parser.parse_args().run, read_only=True)
    try:
        manifest, cells = run.manifest(), {(c["method"], c["keep"]): c for c in run.summary()["cells"] if not c["skipped"]}
    except RequestError as error:
        parser.error(str(error))
    keep = max(k for _, k in cells if k)
    shown = [("none", None), ("blind", None), ("random", keep), ("downsample", keep), ("oracle", keep)]
    shown = [name for name in shown if name in cells]
    families = list(cells["none", None]["families"])
    head = ["cell", "all", *families]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, budget in shown:
        cell = cells[method, budget]
        name = f"`{method}`" + (f" at {budget}" if budget else "")
        a = cell["accuracy"]
        values = [f"{100 * a['value']:.1f} [{100 * a['lo']:.1f}, {100 * a['hi']:.1f}]"]
        values += [f"{100 * cell['families'][f]['value']:.0f}" for f in families]
        lines.append("| " + " | ".join([name, *values]) + " |")
    none, luck, oracle = (cells[n]["accuracy"]["value"] for n in (("none", None), ("random", keep), ("oracle", keep)))
    worst = min(families, key=lambda f: cells["none", None]["families"][f]["value"])
    lost = none - luck
    verdict = (
        f"Leaving all but {keep} random tokens out costs {100 * lost:.1f} points; keeping the evidence instead recovers "
        f"{100 * (oracle - luck) / lost:.0f} % of them. The weakest family is {worst}."
    )
    here = Path(__file__).parent
    steps = _steps((here / "log.jsonl").read_text().splitlines())
    parameters, vocabulary = _size()
    text = _TEXT.format(
        parameters=parameters, vocabulary=vocabulary, images=cells["none", None]["n_images"], questions=cells["none", None]["n"],
        table="\n".join(lines), verdict=verdict, command=manifest["command"], steps=steps,
    )  # fmt: skip
    (here / "README.md").write_text(text)
    print(text)


def _steps(log: list[str]) -> str:
    """Steps of each stage, from the log."""
    import json

    last: dict[str, int] = {}
    for line in log:
        entry = json.loads(line)
        last[entry["stage"]] = entry["step"]
    return ", ".join(f"{steps} steps of `{stage}`" for stage, steps in last.items())


def _size() -> tuple[float, int]:
    """Millions of parameters, and the vocabulary's size."""
    from harness.models import hf

    adapter = hf.load("tiny")
    return sum(p.numel() for p in adapter.model.parameters()) / 1e6, adapter.shape.vocabulary


if __name__ == "__main__":
    main()
