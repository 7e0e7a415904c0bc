"""A profile as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import wrap

from reports.profile_words import (
    ORIGIN,
    Found,
    beyond_words,
    break_even_words,
    calibration_words,
    each_operation,
    kernels_words,
    limit_words,
    memory_words,
)

_WIDTH = 130  # of a paragraph


def as_text(found: Found) -> str:
    """Return a profile as tables for a terminal.

    Args:
        found: what `profile` returned.
    """
    parts = [_head(found), *_settings(found), *_break_even(found), *_largest(found), *_bounds(found), *_sharing(found)]
    return "\n".join([*parts, *_end(found)])


def _head(found: Found) -> str:
    rates = found["rates"]
    rated = (
        f"This machine, measured alone: {rates['flops'] / 1e12:.3g} TFLOP/s in matrix products of {rates['dtype']}, "
        f"{rates['bytes'] / 1e9:.3g} GB/s of memory, {1e6 * rates['launch']:.2g} us an operation{calibration_words(found)}"
    )
    return "\n".join([
        f"{found['model']} ({found['weights']} weights, {found['layers']} LLM layers, {found['dtype']}) on {found['device']}; "
        f"{found['image']} visual tokens, answers of {found['answer_tokens']} tokens", *wrap(rated, _WIDTH),
    ])  # fmt: skip


def _settings(found: Found) -> Iterator[str]:
    for batch in found["batch_size"]:
        for text in found["text_tokens"]:
            rows = [row for row in found["cells"] if (row["batch_size"], row["text_tokens"]) == (batch, text)]
            yield ""
            yield f"Batch of {batch}, {text} tokens of text"
            yield (
                f"  {'method':<24}{'keep':>6}{'rounds':>7}{'tokens':>8}{'TFLOPs':>8}{'answers/s':>11}{'tokens/s':>10}"
                f"{'TTFT p50':>10}{'p95':>9}{'token p50':>11}{'p95':>8}"
                f"{'speed-up of TTFT':>22}{'of answers':>20}{'peak MB':>9}{'KV MB':>8}"
            )
            yield from map(_row, rows)
            for check in found["checks"]:
                if (check["batch_size"], check["text_tokens"]) == (batch, text):
                    rounds = check["aa"]["rounds"]
                    yield f"  A/A check: none against itself {_interval(check['aa'], 3)} of {rounds} round{'s' * (rounds != 1)}"
    yield ""
    told = (
        "Times in ms of the whole batch, p50 and p95 over rounds, of a token over all behind the first; p95 of fewer than 20",
        "times is the largest. Speed-ups over none are paired by round, with 95 % intervals, which under 6 rounds there are none",
        f"of: such a figure tells little. answers/s and tokens/s go by answers of {found['answer_tokens']} tokens, from decoded",
        f"pixels on. TFLOPs are computed, of one prompt up to its first token. {memory_words(found)}",
    )
    yield from wrap(" ".join(told), _WIDTH)


def _row(row: Found) -> str:
    name, keep = row["method"], row["keep_label"] or "-"
    reason = row["skipped"] or row["left_out"] or row["failed"]
    if reason:
        word = "skipped" if row["skipped"] else "left out" if row["left_out"] else "failed"
        return f"  {name:<24}{keep:>6}  {word}: {reason}"
    speed, memory = row["throughput"], row["memory"]
    peak = memory["peak_bytes"]
    return (
        f"  {name:<24}{keep:>6}{row['rounds']:>7}{row['tokens']['average']:>8.1f}{row['flops']['total'] / 1e12:>8.3f}"
        f"{_number(speed['answers_per_second']):>11}"
        f"{_number(speed['tokens_per_second']):>10}{_number(row['ttft']['p50']):>10}{_number(row['ttft']['p95']):>9}"
        f"{_number(row['token']['p50']):>11}{_number(row['token']['p95']):>8}{_interval(row['ratio']['ttft']):>22}"
        f"{_interval(row['ratio']['answer']):>20}{'-' if peak is None else f'{peak / 1e6:.0f}':>9}"
        f"{memory['kv_measured'] / 1e6:>8.1f}"
    )


def _break_even(found: Found) -> Iterator[str]:
    if not found["break_even"]:
        return
    yield ""
    yield "Break-even: the most kept tokens at which a method is faster than none, from pixels to the last token"
    yield f"  {'method':<24}{'batch':>6}{'text':>7}  break-even"
    for one in found["break_even"]:
        words, trust = break_even_words(one)
        yield f"  {one['method']:<24}{one['batch_size']:>6}{one['text_tokens']:>7}  {words:<11} ({trust})"


def _largest(found: Found) -> Iterator[str]:
    if not found["largest_batch"]:
        return
    yield ""
    yield "Largest batch that fits"
    yield f"  {'method':<24}{'keep':>6}{'text':>7}{'batch':>9}"
    for one in found["largest_batch"]:
        batch = "unknown" if one["batch"] is None else f"{one['batch']:,}"
        how = "" if one["how"] == "unknown" else f"{one['how']}: "
        yield f"  {one['method']:<24}{one['keep_label'] or '-':>6}{one['text_tokens']:>7}{batch:>9}  {how}{one['said']}"


def _bounds(found: Found) -> Iterator[str]:
    rows = [row for row in found["cells"] if row.get("bounds")]
    shown = [row for row in rows if not row["reference"] or row["method"] in ("none", "blind")]
    if not shown:
        return
    yield ""
    yield "What bounds each stage: ms measured, and ms that FLOPs, bytes and operations would take alone at the rates above"
    yield (
        f"  {'method':<24}{'keep':>6}{'batch':>6}{'text':>7} {'stage':<11}{'measured':>10}{'arithmetic':>12}{'bandwidth':>11}"
        f"{'launches':>10}{'ops':>8}  bound by"
    )
    for row in shown:
        for one in row["bounds"]:
            share = one["explained"] or 0.0
            by = f"{one['bound']} ({100 * share:.0f} %)" if one["bound"] else f"none of them (at most {100 * share:.0f} %)"
            yield (
                f"  {row['method']:<24}{row['keep_label'] or '-':>6}{row['batch_size']:>6}{row['text_tokens']:>7} "
                f"{one['stage']:<11}{_number(one['measured_ms']):>10}{_number(one['arithmetic_ms']):>12}{_number(one['bandwidth_ms']):>11}"
                f"{_number(one['launches_ms']):>10}{one['operations']:>8,}  {by}"
            )
    told = (
        "FLOPs and bytes are computed from the model's shape, operations of torch are counted, and all other times are measured.",
        "An operation takes what it takes in decoding without an image, host code between operations included, where arithmetic",
        f"and bandwidth do not explain that: {each_operation(shown)}; that decoding is then explained by launches by definition.",
        f"blind has no image at all: what it takes, no pruning saves. {beyond_words(rows)}",
    )
    yield from wrap(" ".join(told), _WIDTH)


def _sharing(found: Found) -> Iterator[str]:
    if not found["sharing"]:
        return
    yield ""
    yield "Expected gain of shared work in an accuracy pass over these cells, from the stages of the smallest batch:"
    for questions, gain in found["sharing"].items():
        yield (
            f"  {questions:>3} questions an image: {gain['both']:.1f} times ({gain['across_questions']:.1f} across questions, "
            f"{gain['across_cells']:.1f} across cells)"
        )


def _end(found: Found) -> Iterator[str]:
    yield ""
    yield kernels_words(found["kernels"])
    if found["self_check"]["outcome"] != "equal":
        yield f"Self-check: {found['self_check']['said']}."
    yield from wrap(ORIGIN, _WIDTH)
    yield limit_words(found)
    for sentence in found["left_out"]:
        yield f"Left out: {sentence}."


def _number(value: float | None) -> str:
    """A number with three figures, and no more decimals than these take."""
    if value is None:
        return "-"
    return (
        f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    )


def _interval(figure: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """A figure with its interval; of few rounds there is none."""
    shown = [] if figure is None else [f"{v:.{digits}f}" for n in ("value", "lo", "hi") if (v := figure[n]) is not None]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) == 3 else shown[0] if shown else "-"
