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
    return {"/".join([prefix, *(slug(str(row[key])) for key in keys), name]): value
            for _, row in pd.read_csv(path).iterrows() for name, value in row.items()}


def study_numbers() -> dict[str, object]:
    """Waiting and occasions; the price of a page fault, and what faults explain; roofs and
    contention; single processes."""
    memory, limit, single = (STUDIES / name / "plots" for name in
                             ("memory", "limit", "single_process"))
    days = pd.read_csv(CPU / "cpu_plots" / "occasions.csv")
    main = r.main_series(days.assign(mode="ddp"))["series"].iloc[0]
    rates = days[(days["series"] == main) & (days["occasion"] != "together")]["rate"]
    best = pd.read_csv(single / "settings.csv").iloc[-1]
    return {
        **named_rows("cpu/waiting", CPU / "cpu_plots" / "waiting.csv", "series"),
        "cpu/occasions/spread": rates.max() / rates.min(),
        **named_rows("memory", memory / "price.csv"),
        **named_rows("memory/verdict", memory / "verdict.csv", "what", "memory"),
        **named_rows("limit", limit / "roofline.csv", "memory", "type"),
        **named_rows("limit", limit / "verdict.csv"),
        **named_rows("limit/contention", limit / "contention.csv", "what"),
        **{f"single/best/{name}": value for name, value in best.items()},
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
        **named_rows("variants/learning", folder / "learning.csv"),
    }


def network_numbers() -> dict[str, object]:
    """At each rate DDP as it is, and the setting with the shortest step; decided where their
    intervals do not overlap."""
    table, numbers = pd.read_csv(FOLDERS["network"][0] / "network.csv"), {}
    batch = table.groupby("batch_size")["setting"].nunique().idxmax()
    for network, rows in table[table["batch_size"] == batch].groupby("network"):
        plain, best = rows[rows["setting"] == "DDP as it is"], rows.sort_values("step_time")
        for name, row in (("plain", plain.iloc[0]), ("best", best.iloc[0])):
            numbers |= {f"network/{network}/{name}/{k}": v for k, v in row.items()}
        overlap = best.iloc[0]["step_time_high"] >= plain.iloc[0]["step_time_low"]
        numbers[f"network/{network}/overlap"] = "overlap" if overlap else "do not overlap"
    machine = r.read_environment(FOLDERS["network"][1])
    numbers |= {f"network/machine/{k}": v for k, v in machine.items()}
    alone = pd.read_csv(FOLDERS["network"][1] / "all_reduce.csv")
    alone = alone[(alone["network"] == "1gbit") & (alone["bytes"] == alone["bytes"].max())]
    share = alone["bytes"].max() * 8 / 1e9 / alone["seconds"].median()  # two ranks: the bytes once
    numbers["network/all_reduce_percent"] = 100 * share
    return numbers | {"network/runs": " or ".join(map(str, sorted(set(table["runs"]))))}


def other_numbers() -> dict[str, object]:
    """Errors of the clocks; how the original study's protocol reads on this machine."""
    truth = pd.read_csv(HERE / "clock_truth.csv")
    long = truth[truth["slept_s"] == truth["slept_s"].max()]
    errors = (1000 * (long["found_s"] - long["slept_s"])).abs()
    table = pd.read_csv(FOLDERS["original"][0] / "summary.csv")
    here, cold = (r.main_series(table[table["loader"] == name]) for name in ("tensor", "pil"))
    both = here.merge(cold, on="num_devices", suffixes=("", "_cold")).iloc[-1]
    runs = r.run_table(r.read_results(FOLDERS["original"][1])[0])
    runs = runs[(runs["num_devices"] == both["num_devices"]) & (runs["loader"] == "pil")]
    over = {n: 100 * (32 / (32 // n * n) - 1) for n in range(1, 9)}
    return {f"clock/resolution/{part}": 1000 * s for part, s in r.clock_resolution().items()} | {
        "clock/places": long["slept_in"].nunique(), "clock/slept": 1000 * long["slept_s"].max(),
        "clock/median": errors.median(), "clock/largest": errors.max(),
        "protocol/devices": both["num_devices"],
        "protocol/cold_to_steady": both["step_time_cold"] / both["step_time"],
        "protocol/mean_gain": 100 * (runs["step_time"] / runs["original_time"] - 1).median(),
        "protocol/remainder": max(over.values()),
        "protocol/remainder_ranks": ", ".join(str(n) for n, share in over.items() if share),
        "fingerprint": fingerprint(),
    }


def table_rows() -> dict[str, str]:
    """The rows of the report's tables."""
    cpu, budget, days = (pd.read_csv(CPU / "cpu_plots" / f"{name}.csv") for name in
                         ("summary", "budget", "occasions"))
    loading, network, variants, factors, gains, faults, verdict, memory, roofs, single = (
        pd.read_csv(STUDIES / f"{name.split()[0]}/plots/{name.split()[1]}.csv") for name in (
            "loading summary", "network network", "variants variants", "variants factors",
            "variants gains", "memory faults", "memory verdict", "memory summary",
            "limit roofline", "single_process settings"))
    allocators = memory[(memory["num_devices"] == 1) & memory["batch_size"].isin([16, 32])]
    allocators = allocators.sort_values(["batch_size", "memory"])
    claims = pd.read_csv(HERE / "claims.csv")
    text, resolved = r.interval_text, r.clock_resolution()["communication"]
    tables = {
        "cpu": [[f"{row['series']}, {row['mode'].replace('_', ' ')}", row["num_devices"],
                 row["runs"], text(row, "rate"), text(row, "step_time"), text(row, "speedup")]
                for _, row in cpu.iterrows()],
        "budget": [[f.NAMES.get(term, term), *(r.term_text(row, term)
                                               for _, row in budget.iterrows())]
                   for term in r.TERMS],
        "budget-head": [["term", *(f"{row['series']} ({row['step_time']:.2f} s)"
                                   for _, row in budget.iterrows())]],
        "occasions": [[row["occasion"].replace("_", " "), row["series"], row["runs"],
                       text(row, "rate"), text(row, "speedup")] for _, row in days.iterrows()],
        "loading": [[row["dataset"].split(" ")[0], row["loader"], row["read_from"], row["runs"],
                     text(row, "loading_ms", 0), text(row, "rate")]
                    for _, row in loading.iterrows()],
        "faults": [[int(row["batch_size"]), f"{row['predicted'] / 1000:,.0f}",
                    text(row, "more_faults", 0, 1e-3), text(row, "faults_kept", 0, 1e-3),
                    text(row, "more_ms_per_image", 0)] for _, row in faults.iterrows()],
        "allocators": [[r.allocator_name(row["memory"]), row["batch_size"], text(row, "rate"),
                        *(text(row, name) for name in ("user_time", "system_time")),
                        text(row, "minor_faults", 0, 1e-3)] for _, row in allocators.iterrows()],
        "verdict": [[row["what"], row["memory"], *(text(row, name) for name in (
                     "difference", "faults", "left"))] for _, row in verdict.iterrows()],
        "roofline": [[row["type"], row["bound_by"], text(row, "seconds"), text(row, "roof"),
                      text(row, "share", 0)]
                     for _, row in roofs[roofs["memory"] == "kept"].iterrows()],
        "single": [[row["setting"], row["runs"], text(row, "rate"), text(row, "over_old"),
                    text(row, "ddp_over_it")] for _, row in single.iterrows()],
        "gains": [[row["occasion"].replace("_", " "), row["rounds"], text(row, "plain"),
                   text(row, "fast"), text(row, "gain")] for _, row in gains.iterrows()],
        "network": [[row["network"], row["batch_size"], row["setting"], text(row, "step_time"),
                     text(row, "transfer", 0, 1000) if row["transfer"] >= resolved else
                     "not resolved",
                     f"{1000 * row['slowed']:+.0f}"] for _, row in network.iterrows()],
        "variants": [[row["variant"], row["runs"], text(row, "rate"),
                      "base" if row["variant"].startswith("plain") else text(row, "gain"),
                      f"{row['loading_percent']:.1f}"] for _, row in variants.iterrows()],
        "factors": [[row["factor"], *(text(row, kind) for kind in ("alone", "mean", "last"))]
                    for _, row in factors.iterrows()],
        "claims": [list(row) for _, row in claims.iterrows()],
    }
    return {f"rows/{name}": f.tex_rows(rows) for name, rows in tables.items()}


def fingerprint() -> str:
    """Of all that the report is made from: a PDF that shows another one is out of date."""
    sources = [*CPU.rglob("plots/*.csv"), *(CPU / "cpu_plots").glob("*.csv"),
               *(HERE / name for name in ("report.tex", "references.bib", "clock_truth.csv",
                                          "claims.csv"))]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    try:
        numbers = sweep_numbers("cpu") | sweep_numbers("original") | sweep_numbers("variants")
        numbers |= study_numbers() | variants_numbers() | network_numbers() | other_numbers()
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
        lines.append(rf"\expandafter\def\csname {name}\endcsname{{{text}}}")
    (HERE / "numbers.tex").write_text("\n".join([*lines, ""]))
    print(f"{len(lines) - 1} numbers and tables are in {HERE / 'numbers.tex'}")


if __name__ == "__main__":
    main()
