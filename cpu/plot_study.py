"""Tables and figures of a study: studies/NAME.py makes them, this reads and writes.

    python plot_study.py networks               # your results, else the published ones
    python plot_study.py variants studies/variants/runs studies/variants/runs_2 --output DIR

studies/NAME.py has study(runs, folder): from one row per run, as common/results.py makes them, and
the folder of the first session, to a tables.Study. Tables become NAME.csv, figures .png and .pdf,
the text answers.md; summary.csv has all configurations.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
STUDIES = HERE / "studies"
sys.path.insert(0, str(HERE.parent / "common"))
import figures  # noqa: E402  (found on the path of the line before)


def load_study(name: str) -> ModuleType:
    """studies/NAME.py as a module; by its path, since a study may be called like a library."""
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    names = sorted(path.stem for path in STUDIES.glob("*.sh"))
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(f"{__doc__.strip()}\n\nNAME: {', '.join(names)}")
        return
    if name not in names:
        sys.exit(f"error: no study {name!r}: there are {', '.join(names)}")
    module = load_study(name)
    args = figures.read_arguments(__doc__, STUDIES / name / "runs", arguments)
    figures.plot_results(args, lambda session: module.study(session.runs, session.folder))


if __name__ == "__main__":
    main()
