"""Pack a session's runs, a file each, into one rows.csv, without loss; or unpack it.

    python pack.py RESULTS            # RESULTS/<configuration>/times_run*.csv -> RESULTS/rows.csv
    python pack.py --unpack RESULTS   # and back, byte for byte

The first column names the configuration. Runs are removed only after what was packed has been read
back and gives the same bytes.
"""

import argparse
import sys
from pathlib import Path


def pack(folder: Path) -> dict[str, str]:
    """Write rows.csv; the text of each run by its name."""
    texts, lines = {}, []
    for path in sorted(folder.glob("*/times_run*.csv")):
        text = path.read_bytes().decode()
        texts[f"{path.parent.name}/{path.name}"] = text
        head, *rows = text.splitlines(keepends=True)
        if not lines:
            lines.append(f"configuration,{head}")
        lines += [f"{path.parent.name},{row}" for row in rows]
    (folder / "rows.csv").write_bytes("".join(lines).encode())
    return texts


def unpack(packed: Path) -> dict[str, str]:
    """The text of each run that a packed file stands for, by its name."""
    head, *lines = packed.read_bytes().decode().splitlines(keepends=True)
    # The number of the run is the first of the run's own columns.
    _, columns = head.split(",", 1)
    texts: dict[str, str] = {}
    for line in lines:
        configuration, row = line.split(",", 1)
        name = f"{configuration}/times_run{row.split(',')[0]}.csv"
        texts[name] = texts.get(name, columns) + row
    return texts


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
    packed = args.results / "rows.csv"
    if args.unpack:
        for name, text in unpack(packed).items():
            (args.results / name).parent.mkdir(exist_ok=True)
            (args.results / name).write_bytes(text.encode())
        return
    texts = pack(args.results)
    if unpack(packed) != texts:
        packed.unlink()
        sys.exit(
            f"error: {args.results}: the runs do not have the same columns: nothing was packed"
        )
    for name in texts:
        (args.results / name).unlink()
    pack_skipped(args.results)
    for path in args.results.iterdir():
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    print(f"{len(texts)} runs are in {packed}")


if __name__ == "__main__":
    main()
