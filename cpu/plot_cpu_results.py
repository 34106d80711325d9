"""Figures and table of a CPU sweep: which rate, how efficient, where the time goes.

    python plot_cpu_results.py                         # own results, else the published ones
    python plot_cpu_results.py cpu_run --output DIR    # those of a folder
    python plot_cpu_results.py cpu_run_own --against cpu_run
    python plot_cpu_results.py RESULTS --method original

Reads every times_run*.csv below the folder, the original study's six columns too; statistics as in
common/results.py. --method original adds the reading of the original study: batch size / mean over
all rows of (loading + compute).

Writes time_components_bar, throughput_line and efficiency_line (.png, .pdf), summary.csv and
answers.md, beside the results. Exit status: 0, 1 if some files were left out, 2 if
nothing was left.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import results as r  # noqa: E402  (found on the path of the line before)
from results import plt  # noqa: E402

MODES = {  # how a mode is called, its marker, its line, and how far aside it is drawn
    "ddp": ("data parallel", "o", "-", 0),
    "no_communication": ("no communication", "^", ":", 0.04),
    "single_process": ("single process (threads)", "s", "", -0.04),
}


def draw(axes, runs: pd.DataFrame, rows: pd.DataFrame, column: str, aside=0.0, **look) -> None:
    """The runs as dots and the medians with their intervals over the device counts.

    aside moves them sidewards, so that what lies at the same place can be told apart.
    """
    own = runs[(runs["series"] == rows["series"].iloc[0]) & runs["mode"].isin(rows["mode"])
               & runs["num_devices"].isin(rows["num_devices"])]
    if column in own:
        axes.plot(own["num_devices"] + aside, own[column], ".", markersize=4, alpha=0.5,
                  color=look["color"])
    axes.errorbar(rows["num_devices"] + aside, rows[column], r.error_bars(rows, column), capsize=3,
                  markersize=6, **look)


def throughput_line(runs, table, skipped, title: str, output: Path, original: bool) -> None:
    """Throughput against cores: data parallel, the ideal, and the two bounds."""
    figure, axes = plt.subplots()
    groups = table.groupby("series", sort=False)
    for colour, (series, rows) in zip(r.COLOURS * 9, groups, strict=False):
        for mode, (name, marker, line, aside) in MODES.items():
            part = rows[rows["mode"] == mode]
            if len(part):
                draw(axes, runs, part, "rate", aside, color=colour, label=f"{series}: {name}",
                     marker=marker, linestyle=line,
                     markerfacecolor=colour if mode == "ddp" else "white")
        ddp = rows[rows["mode"] == "ddp"]
        if len(ddp) > 1:
            each = ddp["rate"].iloc[0] / ddp["num_devices"].iloc[0]
            axes.plot(ddp["num_devices"], each * ddp["num_devices"], "--", color=colour, alpha=0.6,
                      label=f"{series}: ideal, {each:.2f} img/s per core")
        if original:
            axes.plot(ddp["num_devices"], ddp["rate_original_method"], "x-.", color="#000000",
                      label=f"{series}: read by the original's method")
    axes.set(xlabel="CPU cores", ylabel="throughput (img/s)", title=title, ylim=(0, None))
    axes.set_xticks(sorted(set(table["num_devices"])))
    axes.margins(x=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    r.note_below(axes, r.what_is_drawn(table), *r.why_missing(skipped, table, "cores"))
    r.save(figure, output / "throughput_line")


def efficiency_line(runs, table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """Efficiency against the smallest core count, strong and weak; 1 is perfect."""
    ddp = table[table["mode"] == "ddp"]
    ddp = ddp[ddp.groupby("series")["num_devices"].transform("nunique") > 1]
    if ddp.empty:  # it takes two core counts
        return
    figure, axes = plt.subplots()
    for colour, (series, rows) in zip(r.COLOURS * 9, ddp.groupby("series", sort=False),
                                      strict=False):
        first = rows.iloc[0]
        draw(axes, runs, rows, "efficiency", color=colour, marker="o",
             linestyle="--" if first["scaling"] == "weak" else "-",
             label=f"{series} (1 is {first['rate']:.2f} img/s at {first['num_devices']})")
    axes.axhline(1, linestyle=":", color="#444444", label="ideal")
    axes.set_xticks(sorted(set(ddp["num_devices"])))
    axes.legend()
    axes.set(xlabel="CPU cores", ylabel="efficiency per core", title=title, ylim=(0, None))
    r.note_below(axes, "markers: ratio of medians, 95 % bootstrap interval (range below 6 runs)",
                 *r.why_missing(skipped, table, "cores"))
    r.save(figure, output / "efficiency_line")


def bar_name(row: pd.Series) -> str:
    mode = {"ddp": "", "no_communication": "\nno comm.", "single_process": "\n1 process"}
    return (f"{row['num_devices']} core{'s' * (row['num_devices'] > 1)}{mode[row['mode']]}\n"
            + row["series"].replace(", ", "\n"))


def time_components_bar(table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """Where the time of a step goes: on the left as in the original study, on the right split."""
    order = table.sort_values(["mode", "series", "num_devices"], ignore_index=True)
    figure, axes = plt.subplots(figsize=(max(6.4, 1.1 * len(order)), 4.2))
    split = order["forward"].notna().any()  # the original's files do not split compute
    axes.bar(order.index - 0.41, order["loading"], 0.2, color=r.PARTS["loading"][0],
             label=None if split else "loading")
    axes.bar(order.index - 0.41, order["compute"], 0.2, order["loading"], color="#BBBBBB",
             label="compute, as in the original")
    if split:
        r.stacked_parts(axes, order, 0.56)
    axes.set(ylabel="time of a step (s), mean over ranks", title=title)
    axes.set_xticks(order.index, [bar_name(row) for _, row in order.iterrows()], fontsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    lines = ["means over ranks and steps of the run of median step time",
             "waiting: for slower ranks; transfer: what the all-reduce exposes",
             "no comm.: each rank by itself, so none waits; 1 process: one, with a thread per core"]
    axes.set_xlabel("\n".join([*lines, *r.why_missing(skipped, table, "cores")]), fontsize=8)
    r.save(figure, output / "time_components_bar")


def answers(table: pd.DataFrame, ratios: pd.DataFrame) -> list[str]:
    """What the figures show, in a few lines of Markdown: README shows the published ones."""
    strong = r.main_series(table)
    if strong.empty:
        return []
    one, most = strong.iloc[0], strong.iloc[-1]
    cores, text = most["num_devices"], r.interval_text
    gain = (f", {text(most, 'rate')} img/s on {cores}: a speed-up of {text(most, 'speedup')}, an "
            f"efficiency of {text(most, 'efficiency')} per core") if len(strong) > 1 else ""
    lines = [f"- **Throughput** ({one['series']}, {most['runs']} runs): {text(one, 'rate')} img/s "
             f"on {one['num_devices']} core{gain}."]
    weak = table[(table["mode"] == "ddp") & (table["scaling"] == "weak")]
    lines += [f"- **Weak scaling** ({row['series']}, {row['runs']} runs): {text(row, 'rate')} "
              f"img/s on {cores} cores, an efficiency of {text(row, 'efficiency')} per core."
              for _, row in weak[weak["num_devices"] == cores].iterrows()]
    own = ratios[(ratios["series"] == one["series"]) & (ratios["num_devices"] == cores)
                 ] if len(ratios) and cores > 1 else ratios.head(0)
    names = {"no_communication": f"{cores} ranks without communication",
             "single_process": f"a single process with {cores} threads"}
    lines += [f"- **Against {names[row['bound']]}**: {text(row, 'ratio')} times the rate (median "
              f"over {row['rounds']} rounds)." for _, row in own.iterrows()]
    parts = ", ".join(f"{part} {100 * most[part] / most['step_time']:.1f} %" for part in r.PARTS)
    return [
        *lines,
        f"- **Where a step's {most['step_time']:.2f} s go** on {cores} cores: {parts}.",
        f"- **The first step** of a fresh process takes {text(one, 'cold_step_time', 1)} s on "
        f"{one['num_devices']} core and {text(most, 'cold_step_time', 1)} s on {cores}, a steady "
        f"one {text(one, 'step_time', 1)} s and {text(most, 'step_time', 1)} s.",
    ]


def main() -> None:
    args = r.read_arguments(__doc__, HERE / "cpu_run")
    runs, table, skipped, problems = r.read_tables(args)
    title = r.make_title(r.read_environment(args.results), runs)
    ratios, original = r.paired_ratios(runs), args.method == "original"
    table.to_csv(args.output / "summary.csv", index=False)
    fair = table[~table["options"].str.contains(r.UNFAIR)]  # the others are in the table alone
    strong = fair[fair["scaling"] != "weak"]
    with plt.rc_context(r.STYLE):
        if len(strong):
            throughput_line(runs, strong, skipped, title, args.output, original)
            time_components_bar(strong, skipped, title, args.output)
        efficiency_line(runs, fair, skipped, title, args.output)
    if fair.empty:
        print("no figures: all configurations were oversubscribed", file=sys.stderr)
    (args.output / "answers.md").write_text("".join(f"{line}\n" for line in answers(fair, ratios)))
    r.print_table(table, "cores", original)
    for _, row in ratios.iterrows():
        print(f"{row['series']}, {row['num_devices']} cores: data parallel / "
              f"{row['bound'].replace('_', ' ')} = {r.interval_text(row, 'ratio', 3)} "
              f"(median over {row['rounds']} rounds)")
    r.finish(args, runs, problems)


if __name__ == "__main__":
    main()
