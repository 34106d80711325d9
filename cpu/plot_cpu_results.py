"""Figures and table of a CPU sweep: which rate, how efficient, where the time goes.

    python plot_cpu_results.py                         # own results, else the published ones
    python plot_cpu_results.py cpu_run cpu_run_2 --output DIR    # several occasions
    python plot_cpu_results.py cpu_run_own --against cpu_run
    python plot_cpu_results.py RESULTS --method original

Reads every times_run*.csv below the folders, the original study's six columns too; statistics as in
common/results.py. --method original adds the reading of the original study: batch size / mean over
all rows of (loading + compute).

Writes time_components_bar, throughput_line, efficiency_line, loss_budget and, of several folders,
occasions (.png, .pdf); summary.csv, occasions.csv, budget.csv, waiting.csv and answers.md, beside
the results. Exit status: 0, 1 if some files were left out, 2 if nothing was left.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

MODES = {  # how a mode is called, its marker, its line, and how far aside it is drawn
    "ddp": ("data parallel", "o", "-", 0),
    "no_communication": ("no communication", "^", ":", 0.04),
    "single_process": ("single process (threads)", "s", "", -0.04),
}


def throughput_line(runs, table, skipped, title: str, output: Path, original: bool) -> None:
    """Throughput against cores: data parallel, the ideal, and the two bounds."""
    figure, axes = plt.subplots()
    groups = table.groupby("series", sort=False)
    for colour, (series, rows) in zip(f.COLOURS * 9, groups, strict=False):
        for mode, (name, marker, line, aside) in MODES.items():
            part = rows[rows["mode"] == mode]
            if len(part):
                f.points(axes, runs, part, aside=aside, color=colour, marker=marker,
                         label=f"{series}: {name}", linestyle=line,
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
    f.note_below(axes, f.what_is_drawn(table), *f.why_missing(skipped, table, "cores"))
    f.save(figure, output / "throughput_line")


def efficiency_line(runs, table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """Efficiency against the smallest core count, strong and weak; 1 is perfect."""
    ddp = table[table["mode"] == "ddp"]
    ddp = ddp[ddp.groupby("series")["num_devices"].transform("nunique") > 1]
    if ddp.empty:  # it takes two core counts
        return
    figure, axes = plt.subplots()
    for colour, (series, rows) in zip(f.COLOURS * 9, ddp.groupby("series", sort=False),
                                      strict=False):
        first = rows.iloc[0]
        f.points(axes, runs, rows, "efficiency", color=colour, marker="o",
                 linestyle="--" if first["scaling"] == "weak" else "-",
                 label=f"{series} (1 is {first['rate']:.2f} img/s at {first['num_devices']})")
    axes.axhline(1, linestyle=":", color="#444444", label="ideal")
    axes.set_xticks(sorted(set(ddp["num_devices"])))
    axes.legend()
    axes.set(xlabel="CPU cores", ylabel="efficiency per core", title=title, ylim=(0, None))
    f.note_below(axes, "markers: median of the ratios within rounds, 95 % interval (range below 6)",
                 *f.why_missing(skipped, table, "cores"))
    f.save(figure, output / "efficiency_line")


def bar_name(row: pd.Series) -> str:
    mode = {"ddp": "", "no_communication": "\nno comm.", "single_process": "\n1 process"}
    return (f"{row['num_devices']} core{'s' * (row['num_devices'] > 1)}{mode[row['mode']]}\n"
            + row["series"].replace(", ", "\n"))


def time_components_bar(runs, table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """Where the time of a step goes: on the left as in the original study, on the right split."""
    table = table[(table["mode"] == "ddp") | (table["num_devices"] > 1)]
    order = table.sort_values(["mode", "series", "num_devices"], ignore_index=True)
    figure, axes = plt.subplots(figsize=(max(6.4, 1.3 * len(order)), 4.2))
    split = order["forward"].notna().any()  # the original's files do not split compute
    axes.bar(order.index - 0.41, order["loading"], 0.2, color=f.PARTS["loading"][0],
             label=None if split else "loading")
    axes.bar(order.index - 0.41, order["compute"], 0.2, order["loading"], color="#BBBBBB",
             label="compute, as in the original")
    if split:
        f.stacked_parts(axes, order, 0.56)
        steps = pd.DataFrame([r.named_interval("step", r.mean_interval(
            runs[(runs["series"] == row["series"]) & (runs[r.KEY] == row[r.KEY]).all(axis=1)]
            ["step_time"])) for _, row in order.iterrows()])
        axes.errorbar(order.index, steps["step"], f.error_bars(steps, "step"), fmt="none",
                      color="#000000", capsize=3, linewidth=0.8)
    axes.set(ylabel="time of a step (s), mean over ranks", title=title)
    axes.set_xticks(order.index, [bar_name(row) for _, row in order.iterrows()], fontsize=7)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    lines = ["means over ranks, steps and runs; whiskers: 95 % interval of the step over runs",
             "waiting: for slower ranks; transfer: what the all-reduce exposes",
             "no comm.: each rank by itself, waiting is for the slowest to end; 1 process: threads"]
    axes.set_xlabel("\n".join([*lines, *f.why_missing(skipped, table, "cores")]), fontsize=8)
    f.save(figure, output / "time_components_bar")


def loss_budget(budget: pd.DataFrame, title: str, output: Path) -> None:
    """What each device loses against one alone with as many images: the terms with intervals."""
    most = budget[budget["num_devices"] == budget["num_devices"].max()]
    figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    f.dots(axes, [f.NAMES.get(term, term) for term in r.TERMS[1:]], {
        f"{row['series']}: the ideal step is {row['ideal_percent']:.0f} % of "
        f"{row['step_time']:.2f} s": [[row[f"{term}_percent{end}"] for end in r.ENDS]
                                      for term in r.TERMS[1:]] for _, row in most.iterrows()})
    axes.axvline(0, color="#444444", linewidth=0.8)
    figure.legend(loc="outside lower center")
    axes.set(title=f"{title}\n{most['num_devices'].iloc[0]} cores", xlabel="share of the measured "
             "step (%): mean over rounds, 95 % interval (range below 6)")
    f.save(figure, output / "loss_budget")


def occasion_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel configurations on the most cores, by occasion and, if several, together."""
    runs = runs[(runs["mode"] == "ddp") & ~runs["options"].str.contains(r.UNFAIR)]
    if runs.empty:
        return pd.DataFrame(columns=["occasion", "series"])
    groups = list(runs.groupby("occasion", sort=False))
    groups += [("together", runs)] if len(groups) > 1 else []
    table = pd.concat([r.configuration_table(own).assign(occasion=name) for name, own in groups])
    table = table[table["num_devices"] == runs["num_devices"].max()]
    names = [name + end for name in ("rate", "speedup", "efficiency") for end in r.ENDS]
    return table[["occasion", "series", "scaling", "memory", "num_devices", "runs", *names]]


def occasions(table: pd.DataFrame, title: str, output: Path) -> None:
    """Rates and speed-ups on the most cores, occasion by occasion: what holds on another day."""
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(8.6, 4.2), layout="constrained")
    names = list(table["occasion"].unique())
    for axes, column in zip(panels, ("rate", "speedup"), strict=True):
        f.dots(axes, names, {series: rows.set_index("occasion").reindex(names)[
            [column + end for end in r.ENDS]].to_numpy() for series, rows in table.groupby(
                "series", sort=False)})
    panels[0].invert_yaxis()  # each panel has turned the axis that they share
    panels[0].set_xlabel("throughput (img/s)")
    panels[1].set_xlabel(f"speed-up on {table['num_devices'].iloc[0]} cores")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title, fontsize=10)
    f.save(figure, output / "occasions")


def waiting_sources(rows: pd.DataFrame) -> pd.Series:
    """Whether ranks wait for a slow core, a slow process or slow moments: the variance between the
    ranks' times until their gradients are ready, split into what stays with the rank (pinned to
    its core) over all runs, what stays within a run, and what changes from step to step; in % with
    95 % bootstrap intervals over runs."""
    own = rows.assign(ready=rows["step_time"] - rows["communication_time"] - rows["optimizer_time"])
    times = own.pivot_table(index=r.ROUND, columns=["rank", "step"], values="ready").dropna()
    apart = times.to_numpy().reshape(len(times), own["rank"].nunique(), -1)
    apart = apart - apart.mean(axis=1, keepdims=True)

    def split(some: np.ndarray) -> list[np.ndarray]:
        runs, steps = some.shape[-3], some.shape[-1]
        moment = some.var(axis=-1, ddof=1).mean(axis=(-2, -1))
        process = some.mean(axis=-1).var(axis=-2, ddof=1).mean(axis=-1) - moment / steps
        noise = (process + moment / steps) / runs
        core = (some.mean(axis=(-3, -1)) ** 2).mean(axis=-1) - noise
        parts = np.clip([core, process, moment], 0, None)
        return 100 * parts / parts.sum(axis=0)

    drawn = np.random.default_rng(0).integers(len(apart), size=(2000, len(apart)))
    ends = np.quantile(split(apart[drawn]), [0.025, 0.975], axis=1).T
    result = {"runs": len(apart)}
    for name, share, (low, high) in zip(("core", "process", "moment"), split(apart), ends,
                                        strict=True):
        result |= r.named_interval(name, (share, low, high))
    return pd.Series(result)


def waiting_table(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """waiting_sources of each configuration of several ranks, 2 steps and 6 runs or more."""
    key = [name for name in r.KEY if name != "scaling"]
    named = runs[(runs["mode"] == "ddp") & (runs["num_devices"] > 1)].drop_duplicates(key)
    rows, table = rows[rows["warmup"] == 0].merge(named[[*key, "series"]], on=key), []
    for (series, devices), own in rows.groupby(["series", "num_devices"]):
        counts = own.groupby(r.ROUND)["step"].nunique()
        if len(counts) >= 6 and counts.min() >= 2:
            table.append({"series": series, "num_devices": devices, **waiting_sources(own)})
    return pd.DataFrame(table)


def beyond_linear(runs: pd.DataFrame, strong: pd.DataFrame) -> list[str]:
    """Whether a speed-up is beyond linear, and whether it is so once freed memory is kept."""
    few, many = strong["num_devices"].min(), strong["num_devices"].max()
    rows = {(row["memory"], row["num_devices"]): row for _, row in strong.iterrows()}
    wanted = {(memory, cores) for memory in ("glibc", "kept") for cores in (few, many)}
    if few == many or not wanted <= set(rows) or strong["series"].nunique() > 2:
        return []
    if min(rows[key]["runs"] for key in wanted) < 6:
        return []  # a range decides nothing
    glibc, kept = rows["glibc", many], rows["kept", many]
    gains = []
    for cores in (few, many):
        own = [runs[(runs["series"] == rows[memory, cores]["series"]) & (runs["mode"] == "ddp")
                    & (runs["num_devices"] == cores)] for memory in ("kept", "glibc")]
        gain = r.interval_text(r.named_interval("x", r.paired_interval(*own)), "x")
        gains.append(f"{gain} times as fast on {cores}")
    verdict = "with glibc's memory and with memory kept alike"
    if glibc["efficiency_low"] <= 1:
        verdict = "not established with glibc's memory: its interval holds linear"
    elif kept["efficiency_low"] <= 1 <= kept["efficiency_high"]:
        verdict = ("with glibc's memory; with memory kept it is not established: "
                   f"{r.interval_text(kept, 'speedup')}")
    elif kept["efficiency_low"] <= 1:
        verdict = ("with glibc's memory only. In the same rounds, keeping freed memory makes it "
                   f"{r.interval_text(kept, 'speedup')}, so what is beyond linear is the "
                   "allocator's")
    kernel = " and ".join(f"{row['minor_faults'] / 1e6:.2f} million page faults and "
                          f"{row['system_time']:.2f} s of system time (memory {memory})"
                          for (memory, cores), row in rows.items() if cores == few)
    return [f"- **Beyond linear** (more than {many / few:g}) the speed-up is {verdict}. Keeping "
            f"memory is {' and '.join(gains)}; a step on {few} has {kernel}."]


def by_occasion(days: pd.DataFrame, strong: pd.DataFrame) -> list[str]:
    """What held on another day: speed-ups, and how far apart the rates on the most cores were."""
    lines, days = [], days[days["occasion"] != "together"]
    for series in strong["series"].drop_duplicates():
        own = days[days["series"] == series]
        if len(own) < 2:
            continue
        gains = ", ".join(f"{r.interval_text(row, 'speedup')} ({row['occasion']}, {row['runs']} "
                          "rounds)" for _, row in own.iterrows())
        lines.append(f"- **By occasion** ({series}): speed-ups of {gains}; the highest median rate "
                     f"is {own['rate'].max() / own['rate'].min():.2f} times the lowest.")
    return lines


def counted(row: pd.Series) -> str:
    return f"{row['num_devices']} {'cores' if row['num_devices'] > 1 else 'core'}"


def answers(runs: pd.DataFrame, table: pd.DataFrame, ratios: pd.DataFrame,
            others: dict[str, pd.DataFrame]) -> list[str]:
    """What the figures show, in a few lines of Markdown: README shows the published ones."""
    main, text = r.main_series(table), r.interval_text
    if main.empty:
        return []
    lines, cores, budget, waiting = [], main["num_devices"].iloc[-1], *map(
        others.get, ("budget", "waiting"))
    strong = table[(table["mode"] == "ddp") & (table["scaling"] != "weak")
                   & (table["batch_size"] == main["batch_size"].iloc[0])]
    for series, rows in strong.groupby("series", sort=False):
        one, most = rows.iloc[0], rows.iloc[-1]
        gain = (f", {text(most, 'rate')} img/s on {most['num_devices']}: a speed-up of "
                f"{text(most, 'speedup')}") if len(rows) > 1 else ""
        lines.append(f"- **Strong scaling** ({series}, {most['runs']} runs): {text(one, 'rate')} "
                     f"img/s on {counted(one)}{gain}.")
    lines += by_occasion(others["occasions"], strong) + beyond_linear(runs, strong)
    budget = budget[budget["num_devices"] == cores] if len(budget) else budget
    for _, row in budget.iterrows():
        terms = ", ".join(f"{f.NAMES.get(term, term)} {r.term_text(row, term)}"
                          for term in r.TERMS[1:])
        lines.append(f"- **Where a step of {row['step_time']:.2f} s goes** ({row['series']}, "
                     f"{cores} cores, {row['rounds']} rounds): the ideal step "
                     f"{row['ideal_percent']:.1f} %, {terms}.")
    weak = table[(table["mode"] == "ddp") & (table["scaling"] == "weak")]
    lines += [f"- **Weak scaling** ({row['series']}, {row['runs']} runs): {text(row, 'rate')} "
              f"img/s on {cores} cores, an efficiency of {text(row, 'efficiency')} per core."
              for _, row in weak[weak["num_devices"] == cores].iterrows()]
    names = {"no_communication": f"{cores} ranks without communication",
             "single_process": f"a single process with {cores} threads in micro-batches"}
    own = ratios[(ratios["num_devices"] == cores) & ratios["series"].isin(strong["series"])
                 ] if len(ratios) and cores > 1 else ratios.head(0)
    lines += [f"- **Against {names[row['bound']]}** ({row['series']}): {text(row, 'ratio')} times "
              f"the rate (over {row['rounds']} rounds)." for _, row in own.iterrows()]
    for _, row in waiting[waiting["series"].isin(strong["series"])].iterrows() if len(
            waiting) else ():
        lines.append(f"- **What ranks wait for** ({row['series']}): of the variance between ranks "
                     f"{text(row, 'moment', 0)} % changes from step to step, "
                     f"{text(row, 'process', 0)} % stays with a process, {text(row, 'core', 0)} % "
                     "with a core.")
    one, most = main.iloc[0], main.iloc[-1]
    return [
        *lines,
        f"- **The first step** of a fresh process ({one['series']}) takes "
        f"{text(one, 'cold_step_time', 1)} s on {counted(one)} and "
        f"{text(most, 'cold_step_time', 1)} s on {cores}, a steady one "
        f"{text(one, 'step_time', 1)} s and {text(most, 'step_time', 1)} s.",
    ]


def draw_all(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    original = args.method == "original"
    fair = table[~table["options"].str.contains(r.UNFAIR)]  # the others are in the table alone
    strong = fair[fair["scaling"] != "weak"]
    tables = {"budget": r.loss_budget(runs), "occasions": occasion_table(runs),
              "waiting": waiting_table(rows, runs)}
    if len(strong):
        throughput_line(runs, strong, skipped, title, args.output, original)
        time_components_bar(runs, strong, skipped, title, args.output)
    efficiency_line(runs, fair, skipped, title, args.output)
    if len(tables["budget"]):
        loss_budget(tables["budget"], title, args.output)
    if len(args.folders) > 1 and len(tables["occasions"]):
        occasions(tables["occasions"], title, args.output)
    if fair.empty:
        print("no figures: all configurations were oversubscribed", file=sys.stderr)
    return tables, answers(runs, fair, r.paired_ratios(runs), tables)


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "cpu_run", draw_all)
