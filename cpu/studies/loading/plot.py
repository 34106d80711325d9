"""What loading costs a step, by image size and loader.

    python plot.py                # runs_own if it is there, else runs

Reads each folder below the results, one for each set of images. Writes loading (.png, .pdf),
summary.csv and answers.md, which README shows.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

READING = {"": "page cache", "seed=1": "page cache, other images", "cache=dropped": "disk"}


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    loading = [runs[(runs[r.KEY] == row[r.KEY]).all(axis=1)]["loading"] * 1000
               for _, row in table.iterrows()]
    for end, values in zip(r.ENDS, zip(*map(r.median_interval, loading), strict=True), strict=True):
        table[f"loading_ms{end}"] = values
    table["read_from"] = table["options"].map(lambda text: READING.get(text, text))
    names = table["dataset"] + ", " + table["loader"] + " loader, " + table["read_from"]
    figure, axes = plt.subplots(figsize=(6.4, 0.6 + 0.45 * len(names)))
    f.bars(axes, names, table, "loading_ms", color=f.PARTS["loading"][0])
    for name, values in zip(names, loading, strict=True):
        axes.plot(values, [name] * len(values), ".", markersize=4, alpha=0.5, color="#000000")
    axes.invert_yaxis()
    axes.set(xlabel="loading of a step (ms)", title=title)
    f.note_below(axes, f.what_is_drawn(table))
    f.save(figure, args.output / "loading")
    return {}, ["| images | loader | read from | runs | loading of a step (ms) | img/s |",
                "|---|---|---|---|---|---|",
                *(f"| {row['dataset']} | {row['loader']} | {row['read_from']} | {row['runs']} | "
                  f"{r.interval_text(row, 'loading_ms', 0)} | {r.interval_text(row, 'rate')} |"
                  for _, row in table.iterrows())]


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
