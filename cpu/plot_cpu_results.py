"""Figures and tables of a CPU sweep: which rate, how efficient, where the time goes.

    python plot_cpu_results.py                         # your results, else the published ones
    python plot_cpu_results.py cpu_run cpu_run_2 --output DIR    # several sessions
    python plot_cpu_results.py cpu_run_own --against cpu_run
    python plot_cpu_results.py RESULTS --method original

Reads every run below the folders, the original study's six columns too; statistics as in
common/results.py. --method original adds the reading of the original study: batch size / mean over
all rows of (loading + compute).

Writes throughput_line and time_components_bar (.png, .pdf); summary.csv, occasions.csv, budget.csv,
bounds.csv, waiting.csv and answers.md, beside the results. Exit status: 0, 1 if some
files were left out, 2 if nothing was left.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import figures  # noqa: E402  (found on the path of the line before)
import results  # noqa: E402
import tables  # noqa: E402
from figures import plt  # noqa: E402

MODES = {  # how a mode is called, its marker and its line
    "ddp": ("data parallel", "o", "-"),
    "no_communication": ("no communication", "^", ":"),
    "single_process": ("single process (threads)", "s", ""),
}


# ---- tables


def session_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel configurations on the most cores, by session and, if several, together."""
    runs = runs[(runs["mode"] == "ddp") & ~runs["options"].str.contains(results.UNFAIR)]
    if runs.empty:
        return pd.DataFrame(columns=["occasion", "series"])
    groups = list(runs.groupby("occasion", sort=False))
    if len(groups) > 1:
        groups.append(("together", runs))
    parts = [results.configuration_table(own).assign(occasion=name) for name, own in groups]
    table = pd.concat(parts)
    table = table[table["num_devices"] == runs["num_devices"].max()]
    names = ["occasion", "series", "scaling", "memory", "num_devices", "runs"]
    for name in ("rate", "speedup", "efficiency"):
        names += [name + end for end in results.ENDS]
    return table[names]


def split_variance(apart: np.ndarray) -> np.ndarray:
    """Percentages of the variance between ranks [runs, ranks, steps] that stay with a core, with a
    process, and with neither. Leading dimensions are repeats."""
    runs, steps = apart.shape[-3], apart.shape[-1]
    moment = apart.var(axis=-1, ddof=1).mean(axis=(-2, -1))
    process = apart.mean(axis=-1).var(axis=-2, ddof=1).mean(axis=-1) - moment / steps
    noise = (process + moment / steps) / runs
    core = (apart.mean(axis=(-3, -1)) ** 2).mean(axis=-1) - noise
    parts = np.clip([core, process, moment], 0, None)
    return 100 * parts / parts.sum(axis=0)


def waiting_sources(rows: pd.DataFrame) -> dict[str, float]:
    """Whether ranks wait for a slow core, a slow process or slow moments: the variance between the
    ranks' times until their gradients are ready, split into what stays with the rank (pinned to
    its core) over all runs, what stays within a run, and what changes from step to step; in % with
    95 % bootstrap intervals over runs."""
    ready = rows["step_time"] - rows["communication_time"] - rows["optimizer_time"]
    times = rows.assign(ready=ready).pivot_table(
        index=results.ROUND, columns=["rank", "step"], values="ready"
    )
    times = times.dropna()
    apart = times.to_numpy().reshape(len(times), rows["rank"].nunique(), -1)
    apart = apart - apart.mean(axis=1, keepdims=True)
    # Whole runs are drawn again, all parts from the same ones: their percentages sum to 100.
    drawn = np.random.default_rng(0).integers(len(apart), size=(2000, len(apart)))
    low, high = np.quantile(split_variance(apart[drawn]), [0.025, 0.975], axis=1)
    shares = split_variance(apart)
    sources: dict[str, float] = {"runs": len(apart)}
    for place, name in enumerate(("core", "process", "moment")):
        sources |= results.named_interval(name, (shares[place], low[place], high[place]))
    return sources


def waiting_table(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """waiting_sources of each configuration of several ranks, 2 steps and 6 runs or more."""
    key = [name for name in results.KEY if name != "scaling"]
    named = runs[(runs["mode"] == "ddp") & (runs["num_devices"] > 1)].drop_duplicates(key)
    rows = rows[rows["warmup"] == 0].merge(named[[*key, "series"]], on=key)
    table = []
    for (series, devices), own in rows.groupby(["series", "num_devices"]):
        steps = own.groupby(results.ROUND)["step"].nunique()
        if len(steps) >= results.ENOUGH and steps.min() >= 2:
            table.append({"series": series, "num_devices": devices, **waiting_sources(own)})
    return pd.DataFrame(table)


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
    percent = {"series": "series", "num_devices": "cores", "rounds": "rounds"}
    for term in results.TERMS:
        percent[f"{term}_percent"] = figures.NAMES.get(term, term).replace("_", " ")
    text += tables.markdown(
        own["budget"],
        "Where a step goes, in % of it, with as many images on each core.",
        percent,
        1,
    )
    bounds = {"series": "series", "num_devices": "cores", "bound": "against", "rounds": "rounds"}
    return text + tables.markdown(
        own["bounds"],
        "Data parallelism against the same ranks without communication, and against one process "
        "with as many threads.",
        bounds | {"ratio": "ratio of rates"},
    )


# ---- figures


def throughput_line(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Throughput against cores: data parallel, the ideal, and the two bounds."""
    figure, axes = plt.subplots()
    colours = figures.COLOURS * 9
    for colour, (series, rows) in zip(colours, table.groupby("series", sort=False), strict=False):
        for mode, part in rows.groupby("mode", sort=False):
            name, marker, line = MODES[mode]
            look = {"color": colour, "marker": marker, "linestyle": line}
            look["markerfacecolor"] = colour if mode == "ddp" else "white"
            figures.points(axes, session.runs, part, label=f"{series}: {name}", **look)
        ddp = rows[rows["mode"] == "ddp"]
        if len(ddp) > 1:
            each = ddp["rate"].iloc[0] / ddp["num_devices"].iloc[0]
            label = f"{series}: ideal, {each:.2f} img/s per core"
            axes.plot(
                ddp["num_devices"], each * ddp["num_devices"], "--", color=colour, label=label
            )
        if session.is_original:
            label = f"{series}: read by the original's method"
            axes.plot(ddp["num_devices"], ddp["rate_original_method"], "kx-.", label=label)
    axes.set(xlabel="CPU cores", ylabel="throughput (img/s)", title=session.title, ylim=(0, None))
    axes.set_xticks(sorted(set(table["num_devices"])))
    axes.margins(x=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    missing = figures.why_missing(session.skipped, table, "cores")
    figures.note_below(axes, figures.what_is_drawn(table), *missing)
    return figure


def bar_name(row: pd.Series) -> str:
    mode = {"ddp": "", "no_communication": "\nno comm.", "single_process": "\n1 process"}
    cores = "1 core" if row["num_devices"] == 1 else f"{row['num_devices']} cores"
    return f"{cores}{mode[row['mode']]}\n{row['series']}".replace(", ", "\n")


def step_intervals(runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The mean step over the runs of each configuration, with its interval."""
    steps = []
    for _, row in table.iterrows():
        same = (runs["series"] == row["series"]) & (runs[results.KEY] == row[results.KEY]).all(
            axis=1
        )
        interval = results.mean_interval(runs[same]["step_time"])
        steps.append(results.named_interval("step", interval))
    return pd.DataFrame(steps)


def time_components_bar(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Where the time of a step goes: on the left as in the original study, on the right split."""
    table = table[(table["mode"] == "ddp") | (table["num_devices"] > 1)]
    order = table.sort_values(["mode", "series", "num_devices"], ignore_index=True)
    figure, axes = plt.subplots(figsize=(max(6.4, 1.3 * len(order)), 4.2))
    # The original's files do not split compute.
    is_split = order["forward"].notna().any()
    left = order.index - 0.41
    loading = {"color": figures.PARTS["loading"][0], "label": None if is_split else "loading"}
    axes.bar(left, order["loading"], 0.2, **loading)
    compute = {"color": "#BBBBBB", "label": "compute, as in the original"}
    axes.bar(left, order["compute"], 0.2, order["loading"], **compute)
    if is_split:
        figures.stacked_parts(axes, order, 0.56)
        steps = step_intervals(session.runs, order)
        bars = figures.error_bars(steps, "step")
        look = {"color": "#000000", "capsize": 3, "linewidth": 0.8}
        axes.errorbar(order.index, steps["step"], bars, fmt="none", **look)
    axes.set(ylabel="time of a step (s), mean over ranks", title=session.title)
    axes.set_xticks(order.index, [bar_name(row) for _, row in order.iterrows()], fontsize=7)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    lines = [
        "means over ranks, steps and runs; whiskers: 95 % interval of the step over runs",
        "no comm.: each rank by itself, waiting is for the slowest to end; 1 process: threads",
        *figures.why_missing(session.skipped, table, "cores"),
    ]
    axes.set_xlabel("\n".join(lines), fontsize=8)
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
    own = {"budget": results.loss_budget(runs), "occasions": session_table(runs)}
    own |= {"waiting": waiting_table(session.rows, runs), "bounds": results.bound_table(runs)}
    return tables.Study(own, answers(fair, own), drawn)


if __name__ == "__main__":
    args = figures.read_arguments(__doc__, HERE / "cpu_run", sys.argv[1:])
    figures.plot_results(args, draw_all)
