"""What loading costs a step, by image size and loader.

    python plot.py                # runs_own if it is there, else runs

Reads each folder below the results, one for each set of images. Writes loading (.png, .pdf),
summary.csv, and loading.md, which README shows.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import results as r  # noqa: E402  (found on the path of the line before)
from results import plt  # noqa: E402


def main() -> None:
    args = r.read_arguments(__doc__, HERE / "runs")
    runs, table, _, problems = r.read_tables(args)
    table = pd.concat([r.configuration_table(r.name_series(own)) for _, own in
                       runs.groupby("dataset", sort=False)], ignore_index=True)
    loading = [runs[(runs[r.KEY] == row[r.KEY]).all(axis=1)]["loading"] * 1000
               for _, row in table.iterrows()]
    for end, values in zip(r.ENDS, zip(*map(r.median_interval, loading), strict=True), strict=True):
        table[f"loading_ms{end}"] = values
    table.to_csv(args.output / "summary.csv", index=False)
    names = table["dataset"] + ", " + table["loader"] + " loader"
    with plt.rc_context(r.STYLE | {"axes.grid.axis": "x"}):
        figure, axes = plt.subplots(figsize=(6.4, 2.4))
        axes.barh(names, table["loading_ms"], 0.6, color=r.PARTS["loading"][0],
                  xerr=r.error_bars(table, "loading_ms"), capsize=3)
        for name, values in zip(names, loading, strict=True):
            axes.plot(values, [name] * len(values), ".", markersize=4, alpha=0.5, color="#000000")
        axes.invert_yaxis()
        axes.set(xlabel="loading of a step (ms)",
                 title=r.make_title(r.read_environment(args.results / "resized"), runs))
        r.note_below(axes, r.what_is_drawn(table))
        r.save(figure, args.output / "loading")
    lines = [f"| {row['dataset']} | {row['loader']} | {row['runs']} | "
             f"{r.interval_text(row, 'loading_ms', 0)} | {r.interval_text(row, 'rate')} |"
             for _, row in table.iterrows()]
    (args.output / "loading.md").write_text("\n".join([*lines, ""]))
    print("| images | loader | runs | loading (ms) | img/s |", *lines, sep="\n")
    r.finish(args, runs, problems)


if __name__ == "__main__":
    main()
