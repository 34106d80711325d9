"""How fast the step gets by settings alone, against plain PyTorch as the tutorials write it.

    python plot_variants.py                            # cpu_run_variants -> cpu_plots_variants
    python plot_variants.py RESULTS_DIR --output DIR

Plain PyTorch is fp32, NCHW, PIL loader, DDP's defaults. Reads what run_variants.sh makes: the
runs of a sweep and, beside them, peak.csv (of measure_peak.py) and learning.csv (measure_learning).
Gains are ratios within a round, where the drift of the machine cancels. The limit is the rate at
which the cores would do the step's arithmetic if it were one large matrix product.

Writes variants and learning (.png, .pdf), variants.csv, variants_rows.tex, variants_numbers.tex
and answers.md, which README shows.
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd
import plot_cpu_results as plots
from plot_cpu_results import plt

HERE = Path(__file__).resolve().parent
PLAIN = "plain PyTorch (fp32, NCHW, PIL loader)"
LAST = 50  # steps whose mean loss is what was learnt
FIRST = 10  # steps whose mean loss is where learning began
ENDS = ("", "_low", "_high")


def name_of(run: pd.Series) -> str:
    """The settings of a run, in words."""
    words = [] if run["loader"] == "pil" else ["tensor loader"]
    words += ["bf16"] * (run["precision"] == "bf16")
    words += ["channels last"] * (run["channels_last"] == "1")
    for option in filter(None, re.split("[;+]", run["options"])):
        words.append(option.split("=")[-1].replace("-", " "))
    return " + ".join(words) or PLAIN


def read_variants(folder: Path) -> pd.DataFrame:
    """One row a variant, slowest first: its rate, its gain over plain PyTorch, what it loads, and
    its share of the limit; quantities are medians over runs with their intervals."""
    runs = plots.run_table(plots.read_results(folder)[0])
    runs = runs[(runs["mode"] == "ddp") & (runs["scaling"] == "strong")]
    runs = runs[runs["num_devices"] == runs["num_devices"].max()]
    runs = runs.assign(variant=[name_of(run) for _, run in runs.iterrows()]).set_index("run_id")
    plain = runs[runs["variant"] == PLAIN]
    if plain.empty:
        raise plots.ResultsError(f"no run of plain PyTorch (--loader pil) is in {folder}")
    peak = pd.read_csv(folder / "peak.csv").groupby("precision").mean()
    limits = peak["flops_a_second"] / peak["cores"] / peak["flops_an_image"]
    table = []
    for variant, own in runs.groupby("variant"):
        quantities = {
            "rate": own["rate"], "gain": (own["rate"] / plain["rate"]).dropna(),
            "loading_ms": 1000 * own["loading"],
            "loading_gain": (plain["loading"] / own["loading"]).dropna(),
            "loading_percent": 100 * own["loading"] / own["step_time"],
            "cold_step_time": own["cold_step_time"],
        }  # fmt: skip
        row = own.iloc[0][["precision", "loader", "num_devices", "batch_size", "dataset"]].to_dict()
        row |= {"variant": variant, "runs": len(own)}
        for name, values in quantities.items():
            names = [name + end for end in ENDS]
            row |= dict(zip(names, plots.median_interval(values), strict=True))
        limit = row["num_devices"] * limits[row["precision"]]
        table.append({**row, "limit_percent": 100 * row["rate"] / limit})
    return pd.DataFrame(table).sort_values("rate", ignore_index=True)


def draw_variants(table: pd.DataFrame, title: str, output: Path) -> None:
    """Rates with their intervals, slowest first, and the gain over plain PyTorch."""
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    colours = ["#999999" if variant == PLAIN else "#0072B2" for variant in table["variant"]]
    axes.barh(table["variant"], table["rate"], 0.65, color=colours)
    errors = [table["rate"] - table["rate_low"], table["rate_high"] - table["rate"]]
    axes.errorbar(table["rate"], table["variant"], xerr=errors, fmt="none", color="#000000",
                  capsize=3)
    for place, row in table.iterrows():
        axes.annotate(f"{row['gain']:.2f} ×", (row["rate_high"], place), (6, 0), va="center",
                      textcoords="offset points")
    kind = "95 % interval" if table["runs"].min() >= 6 else "interval, or range of runs"
    axes.set(xlabel=f"throughput (img/s): median over runs, {kind}; gain over plain PyTorch",
             title=f"{title}; {table['num_devices'][0]} ranks, batch {table['batch_size'][0]}")
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    plots.save(figure, output / "variants")


def read_learning(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The losses, one row a step and a column for each setting and seed; and how far the settings
    are apart in the mean loss of the last steps, over the seeds, in loss and in percent of the
    drop."""
    losses = pd.read_csv(path).pivot(index="step", columns=["setting", "seed"], values="loss")
    learnt = losses.tail(LAST).mean()
    apart = learnt["fast"] - learnt["plain"]
    drop = (losses["plain"].head(FIRST).mean() - learnt["plain"]).median()
    difference = plots.median_interval(apart)
    percent = [100 * value / drop for value in difference]
    ends = dict(zip(ENDS, zip(difference, percent, strict=True), strict=True))
    return losses, {
        **{f"difference{end}": f"{apart:.4f}" for end, (apart, _) in ends.items()},
        **{f"percent{end}": f"{share:.1f}" for end, (_, share) in ends.items()},
        "seeds": str(len(apart)), "steps": str(len(losses)), "last": str(LAST),
        "first": str(FIRST), "drop": f"{drop:.2f}",
        "plain": f"{learnt['plain'].median():.3f}", "fast": f"{learnt['fast'].median():.3f}",
    }  # fmt: skip


def draw_learning(losses: pd.DataFrame, title: str, output: Path) -> None:
    """The loss by step, running means of 10 steps: median over the seeds and their range."""
    figure, axes = plt.subplots()
    smooth = losses.rolling(10, min_periods=1).mean()
    for setting, colour, line in (("plain", "#999999", "-"), ("fast", "#0072B2", "--")):
        own = smooth[setting]
        axes.plot(own.median(axis=1), line, color=colour, label=f"{setting} settings")
        axes.fill_between(own.index, own.min(axis=1), own.max(axis=1), color=colour, alpha=0.2,
                          linewidth=0)
    seeds = losses["plain"].shape[1]
    axes.set(xlabel="step", ylabel="training loss (mean of 10 steps)",
             title=f"{title}\nmedian and range of {seeds} seeds")
    axes.legend()
    plots.save(figure, output / "learning")


def told(row: pd.Series | dict[str, str], name: str, digits: int | None = 2) -> str:
    """A median with its interval; digits None: texts, as they are."""
    values = (row[name + end] for end in ENDS)
    median, low, high = (v if digits is None else f"{v:.{digits}f}" for v in values)
    return f"{median} [{low}, {high}]"


def chosen_variants(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Those that the texts are about; the fastest is the last of its kind."""
    kinds = {
        "plain": table["variant"] == PLAIN, "fast": table["variant"] != PLAIN,
        "fast-fp32": (table["precision"] == "fp32") & (table["variant"] != PLAIN),
        "compiled": table["variant"].str.contains("compile"),
    }  # fmt: skip
    return {name: table[kind].iloc[-1] for name, kind in kinds.items() if kind.any()}


def write_answers(table: pd.DataFrame, learning: dict[str, str], path: Path) -> None:
    chosen = chosen_variants(table)
    plain = chosen["plain"]
    lines = [
        f"- **Plain PyTorch** (fp32, NCHW, PIL loader; batch {plain['batch_size']}, "
        f"{plain['num_devices']} cores, {plain['runs']} runs): {told(plain, 'rate')} img/s, "
        f"{plain['limit_percent']:.0f} % of what the cores do in a large matrix product.",
    ]
    for name, row in chosen.items():
        kind = {"fast": "Fastest", "fast-fp32": "Fastest in fp32"}.get(name)
        if kind:
            setting = row["variant"].replace("`", "").replace("\n", " ")
            lines.append(
                f"- **{kind}**: {setting}, {told(row, 'rate')} img/s, {told(row, 'gain')} times "
                f"plain PyTorch; {row['limit_percent']:.0f} % of the limit of {row['precision']}. "
                f"Loading takes {told(row, 'loading_percent', 1)} % of its step, at "
                f"{told(row, 'loading_gain', 1)} times the PIL loader's rate."
            )
    lines.append(
        f"- **Learning** ({learning['seeds']} seeds): the mean loss of the last {LAST} of "
        f"{learning['steps']} steps differs by {told(learning, 'percent', None)} % of its drop."
    )
    path.write_text("\n".join(lines) + "\n")


def write_tex(table: pd.DataFrame, learning: dict[str, str], folder: Path) -> None:
    """Rows of a LaTeX table, numbers of the chosen variants, and what was learnt."""
    rows = [
        " & ".join([
            row["variant"].translate(plots.TEX), str(row["runs"]), told(row, "rate"),
            told(row, "gain"), told(row, "loading_ms", 0), f"{row['loading_percent']:.1f}",
            f"{row['limit_percent']:.0f}",
        ])
        for _, row in table.iterrows()
    ]  # fmt: skip
    (folder / "variants_rows.tex").write_text("".join(rf"{row} \\" + "\n" for row in rows))
    numbers = {f"learning/{name}": text for name, text in learning.items()}
    for name, row in chosen_variants(table).items():
        numbers |= {f"{name}/{what}": told(row, what) for what in ("rate", "gain", "loading_gain")}
        numbers |= {
            f"{name}/setting": row["variant"], f"{name}/runs": str(row["runs"]),
            f"{name}/loading": told(row, "loading_ms", 0),
            f"{name}/loading_percent": told(row, "loading_percent", 1),
            f"{name}/limit": f"{row['limit_percent']:.0f}",
            f"{name}/cold": told(row, "cold_step_time", 1),
        }  # fmt: skip
    lines = [plots.tex_definition(f"variants/{name}", text) for name, text in numbers.items()]
    head = "% Written by plot_variants.py from the CSV files: do not edit."
    (folder / "variants_numbers.tex").write_text("\n".join([head, *lines]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=HERE / "cpu_run_variants",
                        help="folder of the sweep (default: cpu_run_variants)")
    parser.add_argument("--output", type=Path, default=HERE / "cpu_plots_variants",
                        help="folder for figures and numbers (default: cpu_plots_variants)")
    args = parser.parse_args()
    try:
        table = read_variants(args.results)
        losses, learning = read_learning(args.results / "learning.csv")
        args.output.mkdir(parents=True, exist_ok=True)
    except (plots.ResultsError, OSError, KeyError, TypeError, ValueError) as error:
        print(f"error: {error}; README says how to measure faster settings", file=sys.stderr)
        sys.exit(2)
    title = plots.make_title(plots.read_environment(args.results), table)
    with plt.rc_context(plots.STYLE):
        draw_variants(table, title, args.output)
        draw_learning(losses, title.replace("bf16+fp32", "fast: bf16, plain: fp32"), args.output)
    table.to_csv(args.output / "variants.csv", index=False)
    write_tex(table, learning, args.output)
    write_answers(table, learning, args.output / "answers.md")
    shown = pd.DataFrame({
        "variant": table["variant"], "runs": table["runs"], "img/s": [
            told(row, "rate") for _, row in table.iterrows()],
        "gain": [told(row, "gain") for _, row in table.iterrows()],
        "loading (ms)": [told(row, "loading_ms", 0) for _, row in table.iterrows()],
        "loading (%)": table["loading_percent"].round(1),
        "of the limit (%)": table["limit_percent"].round(0),
    })  # fmt: skip
    print(shown.to_string(index=False))
    print(f"last {LAST} of {learning['steps']} steps, {learning['seeds']} seeds: fast - plain = "
          f"{told(learning, 'difference', None)}, {told(learning, 'percent', None)} % of the drop")
    print(f"figures, variants.csv and the numbers are in {args.output}")


if __name__ == "__main__":
    main()
