"""The report as a picture: throughput and time to first token over the number of streams."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import Report

LOOKS = {
    ("transformers", False): ("transformers continuous batching", "#888888", "--"),
    ("bare", False): ("executor", "#1f6feb", "-"),
    ("bare", True): ("executor, JSON schema", "#1f6feb", ":"),
    ("served", False): ("over HTTP", "#d1242f", "-"),
    ("served", True): ("over HTTP, JSON schema", "#d1242f", ":"),
}
"""Label, colour and line of each contender, free and constrained."""


def draw(report: Report, path: Path) -> None:
    """Write the plot as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for (contender, constrained), (label, colour, line) in LOOKS.items():
        rows = [row for row in report.rows if (row.contender, row.constrained) == (contender, constrained)]
        streams = [row.streams for row in rows]
        for axes, values in (
            (left, [row.figures.tokens_per_second for row in rows]),
            (right, [row.figures.first_token_ms for row in rows]),
        ):
            axes.plot(streams, values, line, color=colour, marker="o", label=label)
    left.set(title="Throughput of all streams", ylabel="tokens/s")
    right.set(title="Time to first token, median", ylabel="ms", yscale="log")
    ticks = sorted({row.streams for row in report.rows})
    for axes in (left, right):
        axes.set(xlabel="simultaneous streams", xscale="log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    left.legend()
    machine, settings = report.machine, report.settings
    figure.suptitle(
        f"{settings['model']}, {settings['dtype']}, prompts of {settings['prompt_tokens']} tokens, "
        f"{settings['new_tokens']} new; {machine['accelerator'] or machine['processor']}, {machine['cores']} cores"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
