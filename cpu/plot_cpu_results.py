"""Figures and tables of a CPU sweep: which rate, how efficient, where the time goes.

    python plot_cpu_results.py                         # your results, else the published ones
    python plot_cpu_results.py cpu_run cpu_run_2 --output DIR    # several sessions
    python plot_cpu_results.py cpu_run_own --against cpu_run

Reads every run below the folders, the original study's six columns too; statistics as in
common/results.py.

Writes throughput_line and time_components_bar (.png, .pdf); summary.csv, occasions.csv, bounds.csv,
malloc.csv and answers.md, beside the results. Exit status: 0, 1 if some files were left out, 2 if
nothing was left.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import figures  # noqa: E402  (found on the path of the line before)
import results  # noqa: E402
import tables  # noqa: E402
from figures import plt  # noqa: E402

MOST_SERIES = 4  # in a figure


# ---- tables


def session_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel configurations on the most cores, by session."""
    runs = runs[(runs["mode"] == "ddp") & ~runs["options"].str.contains(results.UNFAIR)]
    if runs.empty:
        return pd.DataFrame(columns=["occasion", "series"])
    parts = []
    for session, own in runs.groupby("occasion", sort=False):
        parts.append(results.configuration_table(own).assign(occasion=session))
    table = pd.concat(parts)
    names = ["occasion", "series", "scaling", "memory", "num_devices", "runs"]
    names += table.columns[table.columns.str.match("rate|speedup|efficiency")].to_list()
    return table.loc[table["num_devices"] == runs["num_devices"].max(), names]


def linear_verdict(row: pd.Series) -> str:
    """What the interval of an efficiency says of a linear speed-up."""
    if pd.isna(row["efficiency_low"]):
        return "base"
    if row["rounds"] < results.ENOUGH:
        return "too few rounds"
    if row["efficiency_low"] > 1:
        return "above linear"
    return "below linear" if row["efficiency_high"] < 1 else "linear not excluded"


def answers(table: pd.DataFrame, own: dict[str, pd.DataFrame]) -> str:
    """What the figures show, as tables in Markdown: README may show the published ones."""
    ddp = table[table["mode"] == "ddp"].copy()
    if ddp.empty:
        return ""
    ddp["verdict"] = [linear_verdict(row) for _, row in ddp.iterrows()]
    ddp["speed-up"] = [tables.speedup_text(row) for _, row in ddp.iterrows()]
    ddp["thousand_faults"] = ddp["minor_faults"] / 1000
    columns = {"series": "series", "num_devices": "cores", "runs": "runs", "rate": "img/s"}
    columns |= {"speed-up": "speed-up", "verdict": "verdict", "system_time": "kernel time (s)"}
    text = tables.markdown(
        ddp,
        "Data parallelism: rate, speed-up against the fewest cores in the same rounds, and what "
        "the kernel did in a step.",
        columns | {"thousand_faults": "thousand page faults"},
    )
    bounds = {"series": "series", "num_devices": "cores", "bound": "against", "rounds": "rounds"}
    return text + tables.markdown(
        own["bounds"],
        "Data parallelism against the same ranks without communication, and against one process "
        "with as many threads.",
        bounds | {"ratio": "ratio of rates"},
    )


def where_time_goes(table: pd.DataFrame) -> str:
    """A sentence on the parts of a step, on the most cores of the main series."""
    main = results.main_series(table)
    if main.empty or main["forward"].isna().all():
        return ""
    row = main.iloc[-1]
    # Of their sum: they are means over runs, the step's time is a median.
    shares = 100 * row[results.PARTS] / row[results.PARTS].sum()
    parts = []
    for name, share in shares.items():
        if share >= 0.5:
            parts.append(f"{figures.NAMES.get(name, name)} {share:.0f} %")
    cores = figures.count_text(row["num_devices"], "core")
    return f"A step on {cores} ({tables.in_words(row['series'])}) is {', '.join(parts)}."


def malloc_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What tuned malloc brings over default malloc, where both were measured."""
    ddp = runs[(runs["mode"] == "ddp") & (runs["scaling"] != "weak") & (runs["cpu_share"] == "")]
    table = []
    for (batch, cores), own in ddp.groupby(["batch_size", "num_devices"]):
        default, tuned = (own[own["memory"] == memory] for memory in ("glibc", "kept"))
        if len(default) and len(tuned):
            row = {"batch_size": batch, "num_devices": cores}
            gain = results.paired_interval(tuned, default)
            table.append(row | results.named_interval("gain", gain))
    return pd.DataFrame(table)


def what_malloc_brings(table: pd.DataFrame) -> str:
    """A sentence on tuned malloc."""
    words = []
    for _, row in table.head(3).iterrows():
        cores = figures.count_text(int(row["num_devices"]), "core")
        gain = tables.interval_text(row, "gain")
        words.append(f"{gain} at batch {row['batch_size']:.0f} on {cores}")
    if not words:
        return ""
    return f"Tuned malloc (README: GLIBC_TUNABLES) over default: {'; '.join(words)}."


# ---- figures


def speedup_message(table: pd.DataFrame) -> str:
    """The speed-up of the first series on the most cores, and of the next in the other malloc."""
    most = table["num_devices"].max()
    last = table[table["num_devices"] == most].dropna(subset="speedup_low")
    words = []
    for _, row in last.drop_duplicates("memory").head(2).iterrows():
        malloc = tables.MALLOCS.get(row["memory"])
        first = "" if words else " times as fast as one"
        words.append(f"{row['speedup']:.2f}{first}" + (f" with {malloc}" if malloc else ""))
    if not words:
        return f"{table['rate'].max():.3g} images per second"
    return f"{most} cores: {', '.join(words)}"


def drawn_series(table: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel rows of the batch that the main series has; of a sweep with one series of
    each batch, those of at most four batches."""
    ddp = table[(table["mode"] == "ddp") & (table["scaling"] != "weak")]
    own = ddp[ddp["batch_size"] == results.main_series(table)["batch_size"].iloc[0]]
    if own["series"].nunique() > 1:
        ddp = own
    return ddp[ddp["series"].isin(ddp["series"].unique()[:MOST_SERIES])]


def throughput_line(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Throughput over cores, with what the split of the batch allows."""
    ddp = drawn_series(table)
    figure, axes = plt.subplots(figsize=(6.4, 3.3), layout="constrained")
    is_drawn = session.skipped["batch_size"].isin(ddp["batch_size"])
    notes = figures.why_missing(session.skipped[is_drawn], ddp, "cores")
    many = figures.how_many(ddp)
    if ddp["num_devices"].nunique() <= 2:
        figures.rates_as_bars(axes, ddp, "core")
        if ddp["batch_size"].nunique() == 1:
            many = f"batch {ddp['batch_size'].iloc[0]}; {many}"
        many += "; ×: median of the ratios of runs made in turns"
    else:
        figures.rates_over_devices(axes, ddp, "CPU cores")
        notes.insert(0, "dashes: the best that the split of the batch over the cores allows")
    figures.headline(figure, speedup_message(ddp), *notes, many, session.title)
    return figure


def time_components_bar(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Where the time of a step goes, over cores; of the original's files, loading and the rest."""
    main = results.main_series(table).copy()
    tuned = table[(table["mode"] == "ddp") & (table["memory"] == "kept")]
    tuned = tuned[tuned["batch_size"] == main["batch_size"].iloc[0]]
    if tuned["num_devices"].nunique() >= main["num_devices"].nunique():
        main = tuned.copy()  # what scaling is judged by
    runs = session.runs
    runs = runs[(runs["mode"] == "ddp") & (runs["series"] == main["series"].iloc[0])]
    if main["forward"].isna().all():
        main["forward"], runs = main["compute"], runs.assign(forward=runs["compute"])
    main["step_time"] = main[list(figures.PARTS)].fillna(0).sum(axis=1)
    figure = plt.figure(figsize=(6.4, 3.3), layout="constrained")
    batch, counts = int(main["batch_size"].iloc[0]), main["num_devices"].to_numpy()
    allowed = figures.largest_speedup(batch, counts)
    ideal = main["step_time"].iloc[0] * allowed[0] / allowed
    spread = figures.longer_intervals(runs, ideal)
    figures.parts_over_devices(figure, main, "CPU cores", ideal, spread)
    words = [tables.in_words(main["series"].iloc[0]), "means over ranks, steps and runs"]
    notes = [session.title]
    if len(main) > 1:
        fewest = figures.count_text(counts[0], "core")
        notes.insert(0, f"ideal: the step on {fewest}, over the speed-up that the split allows")
        if len(spread):
            words.append("whiskers: interval over rounds")
    message = figures.longer_message(main, "core", ideal)
    figures.headline(figure, message, ", ".join(words), *notes)
    return figure


def draw_all(session: figures.Session) -> tables.Study:
    runs = session.runs
    # Oversubscribed configurations are in the table alone.
    fair = session.table[~session.table["options"].str.contains(results.UNFAIR)]
    strong = fair[fair["scaling"] != "weak"]
    drawn = {}
    if len(strong):
        drawn["throughput_line"] = throughput_line(session, strong)
        drawn["time_components_bar"] = time_components_bar(session, strong)
    if fair.empty:
        print("no figures: all configurations were oversubscribed", file=sys.stderr)
    own = {"occasions": session_table(runs), "bounds": results.bound_table(runs)}
    own |= {"malloc": malloc_table(runs)}
    printed = tables.scaling_text(session.table, "cores")
    sentences = [where_time_goes(fair), what_malloc_brings(own["malloc"])]
    printed = "\n".join([printed, *filter(None, sentences)])
    return tables.Study(own, answers(fair, own), drawn, printed)


if __name__ == "__main__":
    args = figures.read_arguments(__doc__, HERE / "cpu_run", sys.argv[1:])
    figures.plot_results(args, draw_all)
