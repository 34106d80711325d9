"""Every number and table row that report.tex asks for, looked up in the tables of the plots.

    python report_numbers.py      # writes numbers.tex; ends with a line if a name is unknown

report.tex names a number by its table, the keys of its row and its column:
\\num{memory/price/price-us}, or \\val for a median with its interval; tables are \\num{rows/...}.
"""

import hashlib
import re
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import results  # noqa: E402  (found on the path of the line before)
from tables import in_words, interval_text  # noqa: E402

CPU = HERE.parent / "cpu"
TABLES = {  # name: the keys of a row; files are cpu_plots/bounds.csv, network/plots/network.csv
    "advise/tried": ["malloc", "precision", "memory_format", "ranks"],
    "cpu/summary": ["series", "num_devices", "mode"],
    "cpu/bounds": ["series", "num_devices", "bound"],
    "cpu/malloc": ["batch_size", "num_devices"],
    "curve/faults": [],
    "curve/losses": ["machine", "device", "num_devices", "images"],
    "curve/pause": ["work", "cores"],
    "curve/states": ["num_devices", "cores"],
    "curve/touch": ["gib"],
    "curve/waiting": ["occasion", "num_devices"],
    "limit/contention": ["what"],
    "limit/roofline": ["memory", "type"],
    "loading/summary": ["dataset", "loader", "read_from"],
    "malloc/allocators": ["model", "allocator"],
    "malloc/errors": ["allocator"],
    "malloc/variants": ["variant", "allocator"],
    "memory/faults": ["batch_size"],
    "memory/price": [],
    "memory/verdict": ["what", "memory"],
    "network/all_reduce": ["network", "ranks", "bytes"],
    "network/network": ["machine", "network", "setting", "num_devices"],
    "networks/networks": ["model"],
    "original_protocol/protocol": [],
    "original_protocol/summary": ["loader", "num_devices"],
    "repeat/sessions": ["date"],
    "shares/checks": [],
    "shares/curve": ["kind", "num_devices"],
    "shares/results": ["num_devices"],
    "shares/stragglers": ["part"],
    "single_process/settings": ["setting"],
    "variants/factors": ["factor"],
    "variants/learning": [],
    "variants/variants": ["variant"],
    "warmup/steps": ["device", "num_devices", "memory", "step"],
}


MACHINES = {  # as the report calls them
    "AMD EPYC, AVX512": "A",
    "Intel(R) Xeon(R) Processor, AVX512": "B",
    "AMD EPYC, AVX2": "C",
}
LOSSES = ("contention", "imbalance", "communication", "efficiency")
ASKED = re.compile(r"\\(num|val)\{([^}#]*)\}")
TEX = str.maketrans({c: f"\\{c}" for c in "#$%&_{}"} | dict.fromkeys("\\~^\n\r", " "))


def slug(text: object) -> str:
    """A part of a number's name: batch 32, memory kept -> batch-32-memory-kept."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).removesuffix(".0").lower()).strip("-")


def read_table(name: str) -> pd.DataFrame:
    """A table by the name of its study and its own."""
    study, table = name.split("/")
    folder = CPU / "cpu_plots" if study == "cpu" else CPU / "studies" / study / "plots"
    return pd.read_csv(folder / f"{table}.csv", keep_default_na=False, na_values=[""])


def table_numbers() -> dict[str, object]:
    """Each value of each table, by its name."""
    numbers = {}
    for table, keys in TABLES.items():
        for _, row in read_table(table).iterrows():
            prefix = "/".join([slug(part) for part in [*table.split("/"), *row[keys]]])
            for column, value in row.items():
                numbers[f"{prefix}/{slug(column)}"] = value
    return numbers


def other_numbers() -> dict[str, object]:
    """The machine; errors of the clocks; what sessions and splits are."""
    numbers = {"fingerprint": fingerprint(), "shares/split/5": 32 / -(-32 // 5)}
    sessions = {"cpu": "cpu_run", "shares": "studies/shares/runs", "malloc": "studies/malloc/runs"}
    for name, folder in sessions.items():
        for key, value in results.read_environment(CPU / folder).items():
            if isinstance(value, dict):  # versions of libraries
                value = ", ".join(f"{name} {str(own).split('-')[0]}" for name, own in value.items())
            numbers[f"{name}/machine/{slug(key)}"] = str(value)
    log = pd.read_csv(CPU / "studies" / "single_process" / "runs" / "runs.csv")
    numbers["single-process/failed"] = int((log["result"] == "failed").sum())
    numbers["single-process/started"] = len(log)
    truth = pd.read_csv(HERE / "clock_truth.csv")
    for part, seconds in results.clock_resolution(truth).items():
        numbers[f"clock/resolution/{part}"] = 1000 * seconds
    long = truth[truth["slept_s"] == truth["slept_s"].max()]
    errors = (1000 * (long["found_s"] - long["slept_s"])).abs()
    numbers |= {"clock/places": long["slept_in"].nunique(), "clock/largest": errors.max()}
    numbers |= {"clock/slept": 1000 * long["slept_s"].max(), "clock/median": errors.median()}
    over = {ranks: 100 * (32 / (32 // ranks * ranks) - 1) for ranks in range(1, 9)}
    uneven = [str(ranks) for ranks, share in over.items() if share]
    return numbers | {"remainder/most": max(over.values()), "remainder/ranks": ", ".join(uneven)}


# ---- rows of tables


def tex_rows(rows: list[list[object]]) -> str:
    """Lines of a LaTeX table, harmless whatever the cells hold."""
    lines = []
    for row in rows:
        cells = [str(cell).translate(TEX) for cell in row]
        lines.append(" & ".join(cells) + " \\\\\n")
    return "".join(lines)


def rows_of(table: str, plain: list[str], measured: list[str]) -> list[list[object]]:
    """Some columns of a table: as they are, and with their intervals."""
    rows = []
    for _, row in read_table(table).iterrows():
        cells = [interval_text(row, name) for name in measured]
        rows.append([*row[plain], *cells])
    return rows


def claim_rows() -> list[list[object]]:
    """A line for each claim that a reviewer checks (reproduce.csv): the command that measures it,
    minutes of six rounds by the published runs of its sessions, and the number."""
    numbers = table_numbers()
    rows = []
    for claim in pd.read_csv(HERE / "reproduce.csv").itertuples():
        folders = [CPU / session for session in claim.sessions.split()]
        runs = pd.concat(pd.read_csv(folder / "runs.csv") for folder in folders)
        runs = runs[runs["configuration"].str.fullmatch(claim.configurations)]
        minutes = 6 * runs.groupby("configuration")["wall_s"].mean().sum() / 60
        value, low, high = (numbers[claim.number + end] for end in ("", "-low", "-high"))
        machine = MACHINES[results.machine_name(folders[0])]
        expected = f"{value:.2f} [{low:.2f}, {high:.2f}]"
        rows.append([claim.claim, claim.command, machine, f"{minutes:.0f}", expected])
    return rows


def original_rows() -> list[list[object]]:
    """A line for each claim of the original study: what its rows say, and what was seen here."""
    rows = []
    for _, row in pd.read_csv(HERE / "claims.csv").iterrows():
        theirs = f"{row['its_verdict']}. {row['its_data']}"
        rows.append([row["claim"], theirs, f"{row['verdict']}. {row['here']}"])
    return rows


def core_rows() -> list[list[object]]:
    """The study curve on real cores, tuned malloc: a line for each configuration."""
    rows = []
    tuned = read_table("curve/losses").query("device == 'core' and memory == 'kept'")
    for _, row in tuned.iterrows():
        cells = [interval_text(row, name, 3) for name in LOSSES]
        rows.append([MACHINES[row["machine"]], f"{row['images']:.0f}", row["runs"], *cells])
    return rows


def repeat_rows() -> list[list[object]]:
    """The main findings by session: machine A's main sweep, then study repeat."""
    two_cores = "mode == 'ddp' and num_devices == 2"
    main = read_table("cpu/summary").query(two_cores).set_index("series")
    gain = read_table("cpu/malloc").query("batch_size == 32 and num_devices == 1").iloc[0]
    cells = [interval_text(gain, "gain")]
    for memory in ("kept", "glibc"):
        cells.append(interval_text(main.loc[f"batch 32, memory {memory}"], "speedup"))
    date = results.read_environment(CPU / "cpu_run")["date"][:16].replace("T", " ")
    rows = [["A", date, main.loc["batch 32, memory kept", "rounds"], *cells]]
    for _, row in read_table("repeat/sessions").iterrows():
        cells = [interval_text(row, name) for name in ("gain", "speedup_kept", "speedup_glibc")]
        rows.append([MACHINES[row["machine"]], row["date"], row["rounds"], *cells])
    return rows


def emulated_rows() -> list[list[object]]:
    """The study curve on emulated devices of machine C, 4 images each: a line for each number of
    them, with the speed-up that follows for a batch of 32 beside that measured by study shares."""
    own = "machine == 'AMD EPYC, AVX2'"
    losses = read_table("curve/losses").query(f"{own} and device != 'core' and images == 4")
    products = read_table("curve/product").query(own).set_index("num_devices")
    costs = read_table("curve/batches").query(f"{own} and memory == 'kept'").set_index("batch_size")
    measured = read_table("shares/results").set_index("num_devices")
    rows = []
    for _, row in losses.iterrows():
        count = row["num_devices"]
        cells = [interval_text(row, name) for name in ("imbalance", "communication", "left")]
        cells.append(interval_text(costs.loc[-(-32 // count)], "per_image"))
        speedups = [interval_text(table.loc[count], "speedup") for table in (products, measured)]
        rows.append([count, *cells, *speedups])
    return rows


def malloc_rows() -> list[list[object]]:
    """A line for each malloc: what it brings to each network, and its peak memory on the first."""
    table = read_table("malloc/allocators")
    first = table["model"].iloc[0]
    rows = []
    for allocator, own in table.groupby("allocator", sort=False):
        gains = own.set_index("model").reindex(table["model"].unique())
        is_base = allocator == "glibc"
        if gains["gain"].isna().any() and not is_base:
            continue  # measured on one network only
        cells = ["base" if is_base else interval_text(row, "gain") for _, row in gains.iterrows()]
        peak = f"{gains.loc[first, 'peak_gib']:.1f}"
        rows.append(["default malloc" if is_base else allocator, *cells, peak])
    return rows


def all_rows() -> dict[str, str]:
    """The rows of the report's tables."""
    networks = ["rate_glibc", "kept_one", "kept_most", "speedup_glibc", "speedup_kept"]
    rows = {
        "malloc": malloc_rows(),
        "malloc-head": [["malloc", *read_table("malloc/allocators")["model"].unique(), "peak"]],
        "cores": core_rows(),
        "repeat": repeat_rows(),
        "emulated": emulated_rows(),
        "networks": rows_of("networks/networks", ["model"], networks),
        "claims": original_rows(),
        "reproduce": claim_rows(),
    }
    return {f"rows/{name}": tex_rows(own) for name, own in rows.items()}


# ---- the file


def fingerprint() -> str:
    """Of all that the report is made from: a PDF that shows another one is out of date."""
    sources = [*CPU.rglob("plots/*.csv"), *(CPU / "cpu_plots").glob("*.csv")]
    for name in ("report.tex", "references.bib", "clock_truth.csv", "claims.csv", "reproduce.csv"):
        sources.append(HERE / name)
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def number_text(value: object) -> str:
    """Three significant digits, or all of them before the point."""
    if not isinstance(value, float):
        text = {"True": "yes", "False": "no"}.get(str(value), str(value))
        return in_words(text).translate(TEX)
    digits = f"{value:#.3g}".removesuffix(".")
    if value.is_integer() or abs(value) >= 1000:
        return f"{float(digits):,.0f}"
    return digits


def main() -> None:
    try:
        numbers, rows = table_numbers() | other_numbers(), all_rows()
    except (OSError, results.ResultsError) as error:
        sys.exit(f"error: the report's data are not complete ({error}): run make plots report")
    asked = set()
    for macro, name in ASKED.findall((HERE / "report.tex").read_text()):
        asked |= {name, f"{name}-low", f"{name}-high"} if macro == "val" else {name}
    lines = ["% Written by report_numbers.py from the CSV files: do not edit."]
    for name in sorted(asked):
        value = numbers.get(name)
        if name not in rows and (value is None or value != value):
            sys.exit(f"error: report.tex asks for {name!r}, which is not measured or no name")
        text = rows.get(name) or number_text(value)
        text = re.sub(r"(?<![\w}-])-(?=\d)", r"\\ensuremath{-}", text)  # minus, not hyphen
        lines.append(rf"\expandafter\def\csname {name}\endcsname{{{text}}}")
    (HERE / "numbers.tex").write_text("\n".join([*lines, ""]))
    print(f"{len(lines) - 1} numbers and tables are in {HERE / 'numbers.tex'}")


if __name__ == "__main__":
    main()
