"""Pack a session's runs, a file each, into one rows.csv, without loss; or unpack it.

    python pack.py RESULTS            # RESULTS/<configuration>/times_run*.csv -> RESULTS/rows.csv
    python pack.py --unpack RESULTS   # and back, byte for byte

The first column names the configuration. A run is removed only after what was packed has been read
back and gives the same bytes.
"""

import argparse
import csv
import io
import shutil
import sys
from pathlib import Path


def lines_of(columns: list[str], rows: list[dict[str, str]], end: str) -> bytes:
    """A CSV file as the training script writes it."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def unpack(packed: Path) -> dict[str, bytes]:
    """The files of runs that a packed file stands for, by configuration and name."""
    runs: dict[str, list[dict[str, str]]] = {}
    with packed.open(newline="") as file:
        text = file.read()
    end = "\r\n" if "\r\n" in text else "\n"
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        name = f"{row['configuration']}/times_run{row['run_id']}.csv"
        runs.setdefault(name, []).append(row)
    columns = list(reader.fieldnames or [])[1:]
    return {name: lines_of(columns, rows, end) for name, rows in runs.items()}


def pack(folder: Path) -> int:
    """Pack a folder's runs; returns how many. Ends the program if they do not all fit."""
    rows: list[dict[str, str]] = []
    contents: dict[str, bytes] = {}
    columns: list[str] = []
    for path in sorted(folder.glob("*/times_run*.csv")):
        contents[f"{path.parent.name}/{path.name}"] = path.read_bytes()
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                rows.append({"configuration": path.parent.name} | row)
            columns = list(reader.fieldnames or [])
    end = "\r\n" if any(b"\r\n" in content for content in contents.values()) else "\n"
    packed = folder / "rows.csv"
    packed.write_bytes(lines_of(["configuration", *columns], rows, end))
    if unpack(packed) != contents:
        packed.unlink()
        sys.exit(f"error: {folder}: the runs do not have the same columns: nothing was packed")
    for name in contents:
        (folder / name).unlink()
    return len(contents)


def pack_skipped(folder: Path) -> None:
    """The reasons why configurations were left out, in one file too."""
    lines: list[str] = []
    for path in sorted(folder.glob("*/skipped.csv")):
        head, *rows = path.read_text().splitlines()
        lines += rows if lines else [head, *rows]
        path.unlink()
    if lines:
        (folder / "skipped.csv").write_text("\n".join([*lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, help="the folder of one session")
    parser.add_argument("--unpack", action="store_true", help="write a file for each run again")
    args = parser.parse_args()
    if args.unpack:
        for name, content in unpack(args.results / "rows.csv").items():
            (args.results / name).parent.mkdir(exist_ok=True)
            (args.results / name).write_bytes(content)
        return
    count = pack(args.results)
    pack_skipped(args.results)
    for path in args.results.iterdir():
        if path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)
    print(f"{count} runs are in {args.results / 'rows.csv'}")


if __name__ == "__main__":
    main()
