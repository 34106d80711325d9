"""Every number and table row that report.tex asks for, looked up in what the plots wrote.

    python report_numbers.py      # writes numbers.tex; ends with a line if a name is unknown

report.tex names a number by folder, configuration and quantity: \\num{cpu/most/rate}, or \\val for
a median with its interval. A configuration is `fewest` or `most` (the ends of the main series),
`machine`, or what the functions below name; tables are \\num{rows/...}.
"""

import hashlib
import re
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402

CPU = HERE.parent / "cpu"
STUDIES = CPU / "studies"
FOLDERS = {  # name: figures, rows
    "cpu": (CPU / "cpu_plots", CPU / "cpu_run"),
    "original": (STUDIES / "original_protocol" / "plots", STUDIES / "original_protocol" / "runs"),
    "variants": (STUDIES / "variants" / "plots", STUDIES / "variants" / "runs"),
    "network": (STUDIES / "network" / "plots", STUDIES / "network" / "runs"),
    "shares": (STUDIES / "shares" / "plots", STUDIES / "shares" / "runs"),
}
ASKED = re.compile(r"\\(num|val)\{([^}#]*)\}")


def slug(text: str) -> str:
    """A series' name as a part of a number's: batch 32, memory kept -> batch_32_memory_kept."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def sweep_numbers(name: str) -> dict[str, object]:
    """The machine of a sweep, and the ends of each of its series, of which the main one has no
    name: each column by its name."""
    plots, rows = FOLDERS[name]
    numbers = {f"machine/{k}": str(v) for k, v in r.read_environment(rows).items()}
    table = pd.read_csv(plots / "summary.csv", keep_default_na=False, na_values=[""])
    ratios = r.paired_ratios(r.run_table(r.read_results(*r.occasions_of(rows))[0]))
    ddp = table[table["mode"] == "ddp"]
    series = {f"{slug(text)}/": own for text, own in ddp.groupby("series")}
    for prefix, own in (series | {"": r.main_series(table)}).items():
        for end, place in (("fewest", 0), ("most", -1)):
            row = own.iloc[place].to_dict()
            row |= {f"{part}_percent": 100 * row[part] / row["step_time"] for part in r.PARTS}
            row["cold_ratio"] = row["cold_step_time"] / row["step_time"]
            for _, pair in ratios.iterrows():
                if (pair["series"], pair["num_devices"]) == (row["series"], row["num_devices"]):
                    row |= {f"{pair['bound']}_{k}": pair[k] for k in pair.index}
            numbers |= {f"{prefix}{end}/{k}": v for k, v in row.items()}
    return {f"{name}/{k}": v for k, v in numbers.items()}


def named_rows(prefix: str, path: Path, *keys: str) -> dict[str, object]:
    """Each value of a table, named by its row's keys and its column."""
    def part(key: object) -> str:
        return slug(str(key).removesuffix(".0"))
    return {"/".join([prefix, *(part(row[key]) for key in keys), name]): value
            for _, row in pd.read_csv(path).iterrows() for name, value in row.items()}


def study_numbers() -> dict[str, object]:
    """Waiting and occasions; the price of a page fault, and what faults explain; roofs and
    contention; single processes; loading."""
    memory, limit, single, loading = (STUDIES / name / "plots" for name in
                                      ("memory", "limit", "single_process", "loading"))
    days = pd.read_csv(CPU / "cpu_plots" / "occasions.csv")
    main = r.main_series(days.assign(mode="ddp"))["series"].iloc[0]
    rates = days[(days["series"] == main) & (days["occasion"] != "together")]["rate"]
    best = pd.read_csv(single / "settings.csv").iloc[-1]
    return {
        **named_rows("cpu/waiting", CPU / "cpu_plots" / "waiting.csv", "series"),
        "cpu/occasions/spread": rates.max() / rates.min(), "cpu/occasions/number": len(rates),
        **named_rows("loading", loading / "summary.csv", "dataset", "loader", "read_from"),
        **named_rows("memory", memory / "price.csv"),
        **named_rows("memory/verdict", memory / "verdict.csv", "what", "memory"),
        **named_rows("limit", limit / "roofline.csv", "memory", "type"),
        **named_rows("limit", limit / "verdict.csv"),
        **named_rows("limit/contention", limit / "contention.csv", "what"),
        **{f"single/best/{name}": value for name, value in best.items()},
    }


def shares_numbers() -> dict[str, object]:
    """The curve over time-sliced devices by kind of scaling and number of devices; its controls,
    budget, stragglers and throttling periods."""
    folder, rows = FOLDERS["shares"]
    table = pd.read_csv(folder / "summary.csv")
    table = table[(table["mode"] != "single_process") & (table["model"] == "densenet121")
                  & table["options"].isna() & table["cpu_share"].notna()]
    kind = table["scaling"].where(table["mode"] == "ddp", "alone")
    curve = {f"shares/{kind[index]}/{row['num_devices']}/{name}": value
             for index, row in table.iterrows() for name, value in row.items()}
    machine, most = r.read_environment(rows), pd.read_csv(folder / "budget.csv").iloc[-1]
    period = float(machine["cpu_period_ms"]) / 1000
    return curve | {
        **{f"shares/most/{term}": r.term_text(most, term, period) for term in r.TERMS},
        **{f"shares/machine/{k}": str(v) for k, v in machine.items()},
        **named_rows("shares/controls", folder / "controls.csv", "num_devices"),
        **named_rows("shares/late", folder / "stragglers.csv", "part"),
        **named_rows("shares/period", folder / "periods.csv", "period_ms"),
        "shares/split/7": 32 / -(-32 // 7),
    }


def variants_numbers() -> dict[str, object]:
    """The slowest and the fastest setting, the factors, DDP's copy of gradients, the losses."""
    folder = FOLDERS["variants"][0]
    table = pd.read_csv(folder / "variants.csv")
    plain = table["variant"].str.startswith("plain")
    ends = {"plain": table[plain].iloc[0], "fast": table.iloc[-1]}
    return {
        **{f"variants/{name}/{k}": v for name, row in ends.items() for k, v in row.items()},
        **named_rows("variants", folder / "factors.csv", "factor"),
        **named_rows("variants/copy", folder / "copies.csv", "memory"),
        **named_rows("variants/gains", folder / "gains.csv", "occasion"),
        **named_rows("variants/learning", folder / "learning.csv"),
    }


def network_numbers() -> dict[str, object]:
    """By link, setting and hosts; of the all-reduce alone, also GB/s and microseconds. The model's
    inputs and errors."""
    folder = FOLDERS["network"][0]
    alone = named_rows("network/alone", folder / "all_reduce.csv", "network", "ranks", "bytes")
    for name in list(alone):
        for column, new, unit in (("bus_bandwidth", "bus_gb", 1e9),
                                  ("message", "message_us", 1e-6)):
            if column in name:
                alone[name.replace(column, new)] = alone[name] / unit
    inputs = pd.read_csv(HERE / "scaling_inputs.csv").set_index("input")["value"]
    missed = inputs[inputs.index.str.startswith("missed by the law")]
    missed.index = missed.index.str.removeprefix("missed by the law of ")
    return alone | {
        **named_rows("network", folder / "network.csv", "network", "setting", "num_devices"),
        **named_rows("scaling/summary", HERE / "scaling_summary.csv", "configurations"),
        **{f"scaling/missed/{slug(law)}": value for law, value in missed.items()},
        "scaling/law": missed.idxmin(), "scaling/constant": inputs["missed by a constant"],
    }


def other_numbers() -> dict[str, object]:
    """Errors of the clocks; how the original study's protocol reads on this machine."""
    truth = pd.read_csv(HERE / "clock_truth.csv")
    long = truth[truth["slept_s"] == truth["slept_s"].max()]
    errors = (1000 * (long["found_s"] - long["slept_s"])).abs()
    table = pd.read_csv(FOLDERS["original"][0] / "summary.csv")
    here = r.main_series(table[table["loader"] == "tensor"]).iloc[-1]
    runs = r.run_table(r.read_results(FOLDERS["original"][1])[0])
    runs = runs[(runs["num_devices"] == here["num_devices"]) & (runs["loader"] == "pil")]
    over = {n: 100 * (32 / (32 // n * n) - 1) for n in range(1, 9)}
    return {f"clock/resolution/{part}": 1000 * s for part, s in r.clock_resolution().items()} | {
        "clock/places": long["slept_in"].nunique(), "clock/slept": 1000 * long["slept_s"].max(),
        "clock/median": errors.median(), "clock/largest": errors.max(),
        "protocol/devices": here["num_devices"],
        "protocol/cold_to_steady": here["cold_step_time"] / here["step_time"],
        "protocol/mean_gain": 100 * (runs["step_time"] / runs["original_time"] - 1).median(),
        "protocol/remainder": max(over.values()),
        "protocol/remainder_ranks": ", ".join(str(n) for n, share in over.items() if share),
        "fingerprint": fingerprint(),
    }


def table_rows() -> dict[str, str]:
    """The rows of the report's tables."""
    cpu, budget = (pd.read_csv(CPU / "cpu_plots" / f"{name}.csv") for name in
                   ("summary", "budget"))
    factors, verdict, networks = (pd.read_csv(STUDIES / name) for name in (
        "variants/plots/factors.csv", "memory/plots/verdict.csv", "networks/plots/networks.csv"))
    claims, text = pd.read_csv(HERE / "claims.csv"), r.interval_text
    series = [own.sort_values("num_devices") for _, own in cpu[cpu["mode"] == "ddp"].groupby(
        "series", sort=False)]
    tables = {
        "cpu": [[own["series"].iloc[0], own["runs"].iloc[-1], text(own.iloc[0], "rate"),
                 text(own.iloc[-1], "rate"), text(own.iloc[-1], "speedup")] for own in series],
        "budget": [[f.NAMES.get(term, term), *(r.term_text(row, term)
                                               for _, row in budget.iterrows())]
                   for term in r.TERMS],
        "budget-head": [["term", *(f"{row['series']} ({row['step_time']:.2f} s)"
                                   for _, row in budget.iterrows())]],
        "verdict": [[row["what"], row["memory"], *(text(row, name) for name in (
                     "difference", "faults", "left"))] for _, row in verdict.iterrows()],
        "factors": [[row["factor"], *(text(row, kind) for kind in ("alone", "mean", "last"))]
                    for _, row in factors.iterrows()],
        "networks": [[row["model"], *(text(row, name) for name in (
                      "rate_glibc", "kept_one", "kept_most", "speedup_glibc", "speedup_kept"))]
                     for _, row in networks.iterrows()],
        "claims": [list(row) for _, row in claims.iterrows()],
    }
    return {f"rows/{name}": f.tex_rows(rows) for name, rows in tables.items()}


def fingerprint() -> str:
    """Of all that the report is made from: a PDF that shows another one is out of date."""
    sources = [*CPU.rglob("plots/*.csv"), *(CPU / "cpu_plots").glob("*.csv"),
               *HERE.glob("scaling*.csv"), *(HERE / name for name in (
                   "report.tex", "references.bib", "clock_truth.csv", "claims.csv"))]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    try:
        numbers = sweep_numbers("cpu") | sweep_numbers("original") | sweep_numbers("variants")
        numbers |= study_numbers() | shares_numbers() | variants_numbers() | network_numbers()
        numbers |= other_numbers()
        rows = table_rows()
    except (OSError, KeyError, IndexError, ValueError, r.ResultsError) as error:
        sys.exit(f"error: the report's data are not complete ({error!r}): run make report")
    asked = set()
    for macro, name in ASKED.findall((HERE / "report.tex").read_text()):
        asked |= {name + end for end in (("", "-low", "-high") if macro == "val" else ("",))}
    lines = ["% Written by report_numbers.py from the CSV files: do not edit."]
    for name in sorted(asked):
        value = numbers.get(name.replace("-", "_"))
        text = rows.get(name) or str(value).translate(f.TEX)
        if name not in rows and (value is None or value != value):
            sys.exit(f"error: report.tex asks for {name!r}, which is not measured or no name")
        if isinstance(value, float):
            digits = f"{value:#.3g}".removesuffix(".")
            text = f"{float(digits):,.0f}" if value.is_integer() or abs(value) >= 1000 else digits
        text = re.sub(r"(?<![\w}-])-(?=\d)", r"\\ensuremath{-}", text)  # minus, not hyphen
        lines.append(rf"\expandafter\def\csname {name}\endcsname{{{text}}}")
    (HERE / "numbers.tex").write_text("\n".join([*lines, ""]))
    print(f"{len(lines) - 1} numbers and tables are in {HERE / 'numbers.tex'}")


if __name__ == "__main__":
    main()
