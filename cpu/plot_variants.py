"""How fast the step gets by settings alone, against plain PyTorch as the tutorials write it.

    python measure_peak.py --output cpu_run_variants/peak.csv
    python plot_cpu_results.py cpu_run_variants --table-only --output cpu_plots_variants
    python plot_variants.py        # reads cpu_plots_variants/summary.csv and that peak.csv

Plain PyTorch is fp32, NCHW, PIL loader, DDP's defaults. The limit is the rate at which the cores
would do the step's arithmetic if it were one large matrix product of that precision. Writes
variants (.png, .pdf), variants_rows.tex and variants_numbers.tex beside the summary.
"""

import argparse
import re
import sys
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

HERE = Path(__file__).resolve().parent
TEX = str.maketrans({c: f"\\{c}" for c in "#$%&_{}"} | dict.fromkeys("\\~^\n\r", " "))
STYLE = {"figure.figsize": (7.2, 4.4), "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 9,
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "axes.grid.axis": "x", "axes.axisbelow": True, "grid.alpha": 0.3, "pdf.fonttype": 42,
         "legend.frameon": False, "text.parse_math": False}  # fmt: skip
PLAIN = "plain PyTorch (fp32, NCHW, PIL loader)"


def name_of(row: pd.Series) -> str:
    """The settings of a configuration, in words."""
    if row["loader"] == "pil":
        words = [] if row["precision"] == "fp32" and not row["channels_last"] else ["PIL loader"]
    else:
        words = ["tensor loader"]
    words += ["bf16"] * (row["precision"] == "bf16")
    words += ["channels last"] * int(row["channels_last"])
    for option in filter(None, re.split("[;+]", str(row["options"]))):
        words.append(option.split("=")[-1].replace("-", " "))
    return " + ".join(words) or PLAIN


def read_variants(path: Path, peak: Path) -> pd.DataFrame:
    """The data-parallel configurations at the most devices, with their gain over the plain one and
    their share of the limit."""
    table = pd.read_csv(path, keep_default_na=False)
    table = table[(table["mode"] == "ddp") & (table["scaling"] == "strong")]
    table = table[table["num_devices"] == table["num_devices"].max()]
    table = table.assign(variant=[name_of(row) for _, row in table.iterrows()])
    plain = table[table["variant"] == PLAIN].iloc[0]
    gains = {"": "", "_low": "_high", "_high": "_low"}  # the ends that are farthest apart
    for end, other in gains.items():
        table[f"gain{end}"] = table[f"rate{end}"] / plain[f"rate{other}"]
    table["loading_percent"] = 100 * table["loading"] / table["step_time"]
    peak = pd.read_csv(peak).set_index("precision")
    limit = (peak["flops_a_second"] / peak["cores"] / peak["flops_an_image"]).to_dict()
    table["limit_percent"] = (
        100 * table["rate"] / table["num_devices"] / table["precision"].map(limit)
    )
    return table.sort_values("rate", ignore_index=True)


def draw_variants(table: pd.DataFrame, path: Path) -> None:
    """Rates with their intervals, slowest first, and the gain over plain PyTorch."""
    figure, axes = plt.subplots()
    colours = ["#999999" if variant == PLAIN else "#0072B2" for variant in table["variant"]]
    axes.barh(table["variant"], table["rate"], 0.65, color=colours)
    errors = [table["rate"] - table["rate_low"], table["rate_high"] - table["rate"]]
    axes.errorbar(table["rate"], table["variant"], xerr=errors, fmt="none", color="#000000",
                  capsize=3)
    for place, row in table.iterrows():
        axes.annotate(f"{row['gain']:.2f} ×", (row["rate_high"], place), (6, 0), va="center",
                      textcoords="offset points")
    first = table.iloc[0]
    axes.margins(x=0.12)
    kind = "95 % interval" if set(table["interval"]) == {"95 %"} else "interval, or range of runs"
    axes.set(xlabel=f"throughput (img/s): median over runs, {kind}",
             title=f"DenseNet121, {first['num_devices']} cores, batch {first['batch_size']}\n"
                   f"data: {first['dataset']:.90}")
    axes.invert_yaxis()
    figure.savefig(path.with_suffix(".png"))
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def told(row: pd.Series, name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def write_tex(table: pd.DataFrame, folder: Path) -> None:
    """Rows of a LaTeX table, and numbers of the fastest settings with and without bf16."""
    rows = [
        " & ".join([
            row["variant"].translate(TEX), str(row["runs"]), told(row, "rate"), told(row, "gain"),
            f"{row['loading_percent']:.1f}", f"{row['limit_percent']:.0f}",
        ])
        for _, row in table.iterrows()
    ]
    (folder / "variants_rows.tex").write_text("".join(rf"{row} \\" + "\n" for row in rows))
    exact = table[(table["precision"] == "fp32") & (table["loader"] != "pil")]
    numbers = {}
    for name, row in (("fast", table.iloc[-1]), ("fast-fp32", exact.iloc[-1])):
        numbers |= {
            f"{name}/setting": row["variant"].translate(TEX), f"{name}/rate": told(row, "rate"),
            f"{name}/gain": told(row, "gain"), f"{name}/loading": f"{row['loading_percent']:.1f}",
            f"{name}/limit": f"{row['limit_percent']:.0f}",
        }  # fmt: skip
    lines = [rf"\expandafter\def\csname variants/{k}\endcsname{{{v}}}" for k, v in numbers.items()]
    (folder / "variants_numbers.tex").write_text(
        "\n".join(["% Written by plot_variants.py.", *lines]) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("summary", nargs="?", type=Path,
                        default=HERE / "cpu_plots_variants" / "summary.csv",
                        help="of plot_cpu_results.py (default: cpu_plots_variants/summary.csv)")
    path = parser.parse_args().summary
    try:
        table = read_variants(path, HERE / "cpu_run_variants" / "peak.csv")
    except (OSError, KeyError, ValueError, IndexError) as error:
        print(f"error: {path}: no summary of variants with plain PyTorch (--loader pil) among them "
              f"({error}); README says how to make one", file=sys.stderr)
        sys.exit(2)
    with plt.rc_context(STYLE):
        draw_variants(table, path.with_name("variants"))
    write_tex(table, path.parent)
    shown = ["variant", "runs", "rate", "rate_low", "rate_high", "gain"]
    shown += ["loading_percent", "limit_percent"]
    print(table[shown].round(2).to_string(index=False))


if __name__ == "__main__":
    main()
