"""How fast the step gets by settings alone, against plain PyTorch as the tutorials write it.

    python plot.py                # runs_own if it is there, else runs

Plain PyTorch is fp32, NCHW, PIL loader, DDP's defaults. Reads what run.sh makes: a sweep's runs
and, beside them, learning.csv (of measure_learning.py). Gains are ratios within a round, where the
drift of the machine cancels. Writes variants and learning (.png, .pdf), summary.csv, variants.csv,
learning.csv and answers.md, which README shows.
"""

import re
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import results as r  # noqa: E402  (found on the path of the line before)
from results import plt  # noqa: E402

PLAIN = "plain PyTorch (fp32, NCHW, PIL loader)"
LAST, FIRST = 50, 10  # steps whose mean loss is what was learnt, and where learning began


def name_of(run: pd.Series) -> str:
    """The settings of a run, in words."""
    words = [] if run["loader"] == "pil" else ["tensor loader"]
    words += ["bf16"] * (run["precision"] == "bf16")
    words += ["channels last"] * (run["channels_last"] == "1")
    words += ["memory kept"] * (run["memory"] == "kept")
    for option in filter(None, re.split("[;+]", run["options"])):
        words.append(option.replace("=1", "").split("=")[-1].replace("-", " "))
    return " + ".join(words) or PLAIN


def read_variants(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, slowest first: its rate, its gain over plain PyTorch, what it loads;
    medians over runs with their intervals."""
    runs = runs[(runs["mode"] == "ddp") & (runs["scaling"] == "strong")]
    runs = runs[runs["num_devices"] == runs["num_devices"].max()]
    runs = runs.assign(variant=[name_of(run) for _, run in runs.iterrows()]).set_index("run_id")
    plain = runs[runs["variant"] == PLAIN]
    if plain.empty:
        raise r.ResultsError("there is no run of plain PyTorch (--loader pil)")
    table = []
    for variant, own in runs.groupby("variant"):
        row = own.iloc[0][["precision", "loader", "num_devices", "batch_size", "dataset"]].to_dict()
        row |= {"variant": variant, "runs": len(own)}
        for name, values in (
            ("rate", own["rate"]), ("gain", (own["rate"] / plain["rate"]).dropna()),
            ("loading_ms", 1000 * own["loading"]), ("cold_step_time", own["cold_step_time"]),
            ("loading_percent", 100 * own["loading"] / own["step_time"])):
            row |= r.named_interval(name, r.median_interval(values))
        table.append(row)
    return pd.DataFrame(table).sort_values("rate", ignore_index=True)


def draw_variants(table: pd.DataFrame, title: str, output: Path) -> None:
    """Rates with their intervals, slowest first, and the gain over plain PyTorch."""
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    colours = ["#999999" if variant == PLAIN else r.COLOURS[0] for variant in table["variant"]]
    axes.barh(table["variant"], table["rate"], 0.65, color=colours, capsize=3,
              xerr=r.error_bars(table, "rate"))
    for place, row in table.iterrows():
        text = f"{row['gain']:.2f} ×" if row["variant"] != PLAIN else "base"
        axes.annotate(text, (row["rate_high"], place), (6, 0), va="center",
                      textcoords="offset points")
    kind = "95 % interval" if table["runs"].min() >= 6 else "interval, or range of runs"
    axes.set(xlabel=f"throughput (img/s): median over runs, {kind}; gain over plain PyTorch",
             title=f"{title}; {table['num_devices'][0]} ranks, batch {table['batch_size'][0]}")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    r.save(figure, output / "variants")


def read_learning(path: Path) -> tuple[pd.DataFrame, pd.Series]:
    """The losses, one row per step and a column for each setting and seed; and how far the settings
    are apart in the mean loss of the last steps, over the seeds, in loss and in % of the drop."""
    losses = pd.read_csv(path).pivot(index="step", columns=["setting", "seed"], values="loss")
    learnt = losses.tail(LAST).mean()
    apart = learnt["fast"] - learnt["plain"]
    drop = (losses["plain"].head(FIRST).mean() - learnt["plain"]).median()
    return losses, pd.Series({
        **r.named_interval("difference", r.median_interval(apart)),
        **r.named_interval("percent", r.median_interval(100 * apart / drop)),
        "seeds": len(apart), "steps": len(losses), "last": LAST, "first": FIRST, "drop": drop,
    })


def draw_learning(losses: pd.DataFrame, title: str, output: Path) -> None:
    """The loss by step, running means of 10 steps: median over the seeds and their range."""
    figure, axes = plt.subplots()
    smooth = losses.rolling(10, min_periods=1).mean()
    for setting, colour, line in (("plain", "#999999", "-"), ("fast", r.COLOURS[0], "--")):
        own = smooth[setting]
        axes.plot(own.median(axis=1), line, color=colour, label=f"{setting} settings")
        axes.fill_between(own.index, own.min(axis=1), own.max(axis=1), color=colour, alpha=0.2,
                          linewidth=0)
    axes.set(xlabel="step", ylabel="training loss (mean of 10 steps)",
             title=f"{title}\nmedian and range of {losses['plain'].shape[1]} seeds")
    axes.legend()
    r.save(figure, output / "learning")


def answers(table: pd.DataFrame, learning: pd.Series) -> list[str]:
    plain, best = table[table["variant"] == PLAIN].iloc[0], table[table["variant"] != PLAIN]
    lines = [f"- **Plain PyTorch** (fp32, NCHW, PIL loader; batch {plain['batch_size']}, "
             f"{plain['num_devices']} cores, {plain['runs']} runs): "
             f"{r.interval_text(plain, 'rate')} img/s."]
    for kind, rows in (("Highest rate", best), ("Highest in fp32", best[best.precision == "fp32"])):
        for _, row in rows.tail(1).iterrows():
            setting = re.sub(r"[`\n|<>*_\[\]]", " ", row["variant"])
            lines.append(f"- **{kind}**: {setting}, {r.interval_text(row, 'rate')} img/s, "
                         f"{r.interval_text(row, 'gain')} times plain PyTorch; loading takes "
                         f"{r.interval_text(row, 'loading_percent', 1)} % of its step.")
    lines.append(f"- **The first {learning['steps']:.0f} steps** of the fast settings (bf16, "
                 f"channels last; {learning['seeds']:.0f} seeds): the mean loss of the last {LAST} "
                 f"differs by {r.interval_text(learning, 'percent', 1)} % of its drop.")
    return lines


def main() -> None:
    args = r.read_arguments(__doc__, HERE / "runs")
    runs, table, _, problems = r.read_tables(args)
    try:
        variants = read_variants(runs)
        losses, learning = read_learning(args.results / "learning.csv")
    except (r.ResultsError, OSError, KeyError, TypeError, ValueError) as error:
        print(f"error: {args.results}: {error}: see run.sh", file=sys.stderr)
        sys.exit(2)
    title = r.make_title(r.read_environment(args.results), runs)
    with plt.rc_context(r.STYLE | {"axes.grid.axis": "x"}):
        draw_variants(variants, title, args.output)
        draw_learning(losses, title.replace("bf16+fp32", "fast: bf16, plain: fp32"), args.output)
    table.to_csv(args.output / "summary.csv", index=False)
    variants.to_csv(args.output / "variants.csv", index=False)
    learning.to_frame().T.to_csv(args.output / "learning.csv", index=False)
    lines = answers(variants, learning)
    (args.output / "answers.md").write_text("\n".join([*lines, ""]))
    shown = {head: [r.interval_text(row, name) for _, row in variants.iterrows()] for head, name in
             (("img/s", "rate"), ("gain", "gain"), ("loading (ms)", "loading_ms"))}
    print(variants[["variant", "runs"]].assign(**shown).to_string(index=False))
    r.finish(args, runs, problems)


if __name__ == "__main__":
    main()
