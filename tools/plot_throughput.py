#!/usr/bin/env python3
"""Draws the throughput of whole runs on GPUs beside other engines', from the table of docs/performance.md.

    tools/plot_throughput.py [--table docs/performance.md] [--plot docs/throughput.png]

The table is the one place where the figures stand. Needs matplotlib.
"""
import argparse
import pathlib
import re
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
HEADING = "### Whole runs, generated tokens over total time, tok/s"
ENGINES = ("h2oserve", "vLLM 0.26, bf16", "vLLM 0.26, fp8 KV", "authors' H2O")
COLOURS = ("#1f6f8b", "#b8b8b8", "#dcdcdc", "#e8c07d")


def number(text):
    """'2,957 (1)' -> 2957, '' -> None."""
    found = re.match(r"[\d,]+(\.\d+)?", text.strip())
    return float(found.group().replace(",", "")) if found else None


def read_runs(path):
    """[(load, [tok/s of each engine or None])], without the rows that are times."""
    section = path.read_text().split(HEADING)
    if len(section) != 2:
        sys.exit(f"{path} has no section '{HEADING}'")
    runs = []
    for line in section[1].split("\n\n")[1].splitlines()[2:]:
        load, ours, _, vllm, authors, _ = (cell.strip() for cell in line.strip("|").split("|"))
        if "ms a token" in load:
            continue
        bf16, _, fp8 = vllm.partition("/")
        runs.append((load, [number(text) for text in (ours, bf16, fp8, authors)]))
    return runs


def label(load):
    """'OPT-30B, 96 x 512+512 at 204 slots' on two lines."""
    return "\n".join(load.replace("two GPUs, ", "two GPUs, OPT-30B, ").rsplit(", ", 1))


def plot(runs, path):
    try:
        import matplotlib
    except ImportError:
        sys.exit("this needs matplotlib (pip install matplotlib, or Debian's python3-matplotlib)")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8, 0.75 * len(runs) + 1))
    height = 0.8 / len(ENGINES)
    for e, (engine, colour) in enumerate(zip(ENGINES, COLOURS)):
        at = [(r + height * sum(rate is not None for rate in rates[:e]), rates[e])
              for r, (_, rates) in enumerate(runs) if rates[e] is not None]
        axes.barh(*zip(*at), height=height, color=colour, label=engine, align="edge")
        for y, rate in at:
            axes.annotate(f"{rate:,.0f}", (rate, y + height / 2), xytext=(3, 0), textcoords="offset points",
                          va="center", fontsize="x-small")
    axes.set_yticks([r + 0.4 for r in range(len(runs))], [label(load) for load, _ in runs], fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("generated tokens a second, prefill included (H200)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=len(ENGINES), frameon=False, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--table", type=pathlib.Path, default=REPOSITORY / "docs" / "performance.md")
    parser.add_argument("--plot", type=pathlib.Path, default=REPOSITORY / "docs" / "throughput.png")
    arguments = parser.parse_args()
    plot(read_runs(arguments.table), arguments.plot)


if __name__ == "__main__":
    main()
