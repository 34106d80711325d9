"""What communication costs over a shaped network, by link rate and by how DDP is set.

    python plot_cpu_results.py cpu_run_network --table-only --output cpu_plots_network
    python plot_network_results.py                  # reads cpu_plots_network/summary.csv

The cost of communication is the step against the same step without communication: what is exposed
after backward, and what the hidden transfer takes from the core that computes. Writes
communication_cost (.png, .pdf), network_rows.tex and network_numbers.tex beside the summary.
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
EXPOSED, REST = "#CC79A7", "#0072B2"  # of Okabe and Ito: told apart by the colour-blind
RATES = {"mbit": 1e6, "gbit": 1e9}
TEX = str.maketrans({c: f"\\{c}" for c in "#$%&_{}"} | dict.fromkeys("\\~^", " "))
STYLE = {"figure.figsize": (9.6, 5.2), "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 9,
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "axes.grid.axis": "x", "axes.axisbelow": True, "grid.alpha": 0.3, "pdf.fonttype": 42,
         "legend.frameon": False, "hatch.linewidth": 0.6, "text.parse_math": False}  # fmt: skip


def bits_per_second(network: str) -> float:
    """The rate that tc's name of it means; unshaped is infinite."""
    found = re.fullmatch(r"([\d.]+)([mg]bit)", network)
    return float(found[1]) * RATES[found[2]] if found else float("inf")


def read_network(path: Path) -> pd.DataFrame:
    """The configurations of a summary that name a network, with what each cost beyond a step
    without communication of the same batch, in s."""
    table = pd.read_csv(path, keep_default_na=False, na_values={"bucket_cap_mb": [""]})
    options = table["options"].str.split(";")
    named = options.map(lambda words: dict(w.split("=", 1) for w in words if "=" in w))
    table = table.assign(network=named.str.get("network"), ddp=named.str.get("ddp").fillna(""))
    table = table[table["network"].notna()]
    alone = table[table["mode"] == "no_communication"].set_index("batch_size")
    table = table[table["mode"] == "ddp"].copy()
    for name in ("step_time", "median_backward"):
        table[f"alone_{name}"] = table["batch_size"].map(alone[name])
    for end in ("", "_low", "_high"):
        table[f"cost{end}"] = table[f"step_time{end}"] - table["alone_step_time"]
    table["slowed"] = table["median_backward"] - table["alone_median_backward"]
    table["setting"] = [
        " + ".join([f"{cap:g} MB buckets"] * pd.notna(cap) + [ddp.replace("-", " ")] * bool(ddp))
        or "DDP as it is" for cap, ddp in zip(table["bucket_cap_mb"], table["ddp"], strict=True)
    ]  # fmt: skip
    return table.assign(bits=table["network"].map(bits_per_second)).sort_values(
        ["batch_size", "bits", "setting"], ignore_index=True
    )


def communication_cost(table: pd.DataFrame, path: Path) -> None:
    """For each link rate, the cost of each setting: exposed, and the rest; interval of the step."""
    batch = table.groupby("batch_size")["setting"].nunique().idxmax()
    table = table[table["batch_size"] == batch]
    networks = table.drop_duplicates("network")["network"].tolist()
    settings = sorted(set(table["setting"]), reverse=True)
    figure, panels = plt.subplots(1, len(networks), sharey=True, layout="constrained")
    for axes, network in zip(panels, networks, strict=True):
        own = table[table["network"] == network].set_index("setting").reindex(settings)
        exposed = own["median_transfer"]
        rest = (own["cost"] - exposed).clip(lower=0)
        axes.barh(settings, exposed, 0.6, color=EXPOSED, hatch="xx", edgecolor="white",
                  linewidth=0, label="exposed transfer")
        axes.barh(settings, rest, 0.6, exposed, color=REST,
                  label="the rest: slowed backward, waiting")
        errors = [own["cost"] - own["cost_low"], own["cost_high"] - own["cost"]]
        axes.errorbar(own["cost"], settings, xerr=errors, fmt="o", color="#000000", markersize=4,
                      capsize=3, label="cost of the step: median, interval over runs")
        axes.axvline(0, color="#444444", linewidth=0.8)
        axes.set(title=network, xlabel="s a step")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    data, precision = ("; ".join(sorted(set(table[name]))) for name in ("dataset", "precision"))
    figure.suptitle(
        f"Step beyond {table['alone_step_time'].iloc[0]:.2f} s without communication, "
        f"{table['num_devices'].iloc[0]} hosts, batch {batch}, {precision}\ndata: {data}",
        fontsize=10,
    )
    figure.savefig(path.with_suffix(".png"))
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def told(row: pd.Series, name: str, scale: float, digits: int) -> str:
    values = [scale * row[f"{name}{end}"] for end in ("", "_low", "_high")]
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*values, d=digits)


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """Rows of a LaTeX table, one a configuration."""
    lines = [
        " & ".join([
            row["network"].translate(TEX), str(row["batch_size"]), row["setting"].translate(TEX),
            told(row, "step_time", 1, 2), told(row, "median_transfer", 1000, 0),
            f"${1000 * row['slowed']:+.0f}$",
        ])
        for _, row in table.iterrows()
    ]
    path.write_text("".join(rf"{line} \\" + "\n" for line in lines))


def write_numbers(table: pd.DataFrame, path: Path) -> None:
    """LaTeX definitions: at each rate DDP as it is, and the setting with the shortest step."""
    numbers = {"runs": " or ".join(map(str, sorted(set(table["runs"]))))}
    batch = table.groupby("batch_size")["setting"].nunique().idxmax()
    for network, rows in table[table["batch_size"] == batch].groupby("network"):
        plain = rows[rows["setting"] == "DDP as it is"].iloc[0]
        best = rows.loc[rows["step_time"].idxmin()]
        for name, row in (("plain", plain), ("best", best)):
            numbers |= {
                f"{network}/{name}/step": told(row, "step_time", 1, 2),
                f"{network}/{name}/exposed": told(row, "median_transfer", 1000, 0),
                f"{network}/{name}/slowed": f"{1000 * row['slowed']:.0f}",
                f"{network}/{name}/setting": row["setting"],
            }
        decided = best["step_time_high"] < plain["step_time_low"]
        part = best["median_transfer"] / plain["median_transfer"]
        numbers[f"{network}/decided"] = f"{'' if decided else 'not '}decidedly shorter"
        numbers[f"{network}/exposed-percent"] = f"{100 * part:.0f}"
    definitions = [
        rf"\expandafter\def\csname network/{name.translate(TEX)}\endcsname{{{text.translate(TEX)}}}"
        for name, text in numbers.items()
    ]
    path.write_text("\n".join(["% Written by plot_network_results.py.", *definitions]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("summary", nargs="?", type=Path,
                        default=HERE / "cpu_plots_network" / "summary.csv",
                        help="of plot_cpu_results.py (default: cpu_plots_network/summary.csv)")
    path = parser.parse_args().summary
    try:
        table = read_network(path)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {path}: {error}: see --help on how to make it", file=sys.stderr)
        sys.exit(2)
    if table.empty or table["alone_step_time"].isna().any():
        print(f"error: {path}: no runs over a network, or none without communication: run "
              "run_network_experiments.sh", file=sys.stderr)
        sys.exit(2)
    with plt.rc_context(STYLE):
        communication_cost(table, path.with_name("communication_cost"))
    write_rows(table, path.with_name("network_rows.tex"))
    write_numbers(table, path.with_name("network_numbers.tex"))
    shown = table[["network", "batch_size", "setting", "runs", "step_time", "step_time_low",
                   "step_time_high", "median_transfer", "slowed"]]
    print(shown.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
