"""Do the committed numbers, figures and words belong together? Reads what is committed at HEAD, so
that it passes whatever a user's own sweep leaves in the working tree."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, load, read_rows
from test_plots import write_run


def tracked(pattern: str) -> list[str]:
    done = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", pattern], capture_output=True, text=True
    )
    return done.stdout.split()


ROWS = [path.removesuffix("/environment.json") for path in tracked("*/environment.json")]
STUDIES = [Path(path).stem for path in tracked("cpu/studies/*.sh")]


def sessions(published: str) -> list[str]:
    """The tracked sessions of a sweep: cpu/cpu_run, cpu/cpu_run_2 and so on."""
    tops = {re.sub(r"/(resized|full_size_stand_in|anchor)$", "", path) for path in ROWS}
    return sorted(path for path in tops if re.fullmatch(published + r"(_\d+)?", path))


# The script, its arguments, and where the figures are.
PLOTS = {"cpu": (["cpu/plot_cpu_results.py"], sessions("cpu/cpu_run"), "cpu/cpu_plots")}
for name in STUDIES:
    rows = sessions(f"cpu/studies/{name}/runs")
    if not rows:
        continue  # nothing is published of it yet
    PLOTS[name] = (["cpu/plot_study.py", name], rows, f"cpu/studies/{name}/plots")


def at_commit(commit: str, *paths: str) -> bytes:
    """The first of these files that there was at a commit; skips where history is missing."""
    for path in paths:
        done = subprocess.run(
            ["git", "-C", REPOSITORY, "show", f"{commit}:{path}"], capture_output=True
        )
        if done.returncode == 0:
            return done.stdout
    pytest.skip(f"commit {commit[:8]} is not in this clone's history")


@pytest.mark.parametrize("results", ROWS)
def test_rows_are_complete_and_of_the_recorded_code(committed, results, tmp_path):
    folder = committed / results
    environment = json.loads((folder / "environment.json").read_text())
    identity, commit = environment["identity"], environment["recorded"]["commit"]
    assert "-dirty" not in commit
    runs = [(path.name, read_rows(path)) for path in folder.glob("*/times_run*.csv")]
    if (folder / "rows.csv").is_file():
        for name, content in load("common/pack.py").unpack(folder / "rows.csv").items():
            rows = list(csv.DictReader(io.StringIO(content)))
            runs.append((Path(name).name, rows))
    assert runs
    for name, rows in runs:
        assert name == f"times_run{rows[0]['run_id']}.csv"
        assert rows[0]["dataset"] == identity["dataset"]
    script = tmp_path / "project_ex_1.py"
    script.write_bytes(at_commit(commit, "cpu/project_ex_1.py"))
    assert identity["code"] == load("common/identity.py").code_hash([script])


@pytest.mark.parametrize("name", PLOTS)
def test_summary_is_what_the_rows_give(committed, name, tmp_path):
    (script, *arguments), results, plots = PLOTS[name]
    folders = [committed / path for path in results]
    command = [sys.executable, committed / script, *arguments, *folders, "--output", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn = committed / plots
    for path in drawn.glob("*.csv"):
        made = [pd.read_csv(folder / path.name) for folder in (tmp_path, drawn)]
        pd.testing.assert_frame_equal(*made, rtol=1e-9)
    for path in drawn.glob("*.md"):
        assert (tmp_path / path.name).read_text() == path.read_text()
    # Every figure that lies there is drawn by the script, and the other way round.
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in drawn.iterdir()}


def test_packing_loses_nothing(tmp_path):
    """A session's runs packed and unpacked again are byte for byte the same, and read alike."""
    for run in range(1, 4):
        write_run(tmp_path, 2, run, 4.0 + run)
        write_run(tmp_path, 1, run, 8.0 + run, memory="kept")
    skipped = tmp_path / "bs32_cores9" / "skipped.csv"
    skipped.parent.mkdir()
    skipped.write_text("num_devices,batch_size,reason\n9,32,2 cores are available\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("times_run*.csv")}
    table = load("common/results.py").read_runs(tmp_path)
    command = [sys.executable, REPOSITORY / "common" / "pack.py", tmp_path]
    subprocess.run(command, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "skipped.csv"]
    pd.testing.assert_frame_equal(load("common/results.py").read_runs(tmp_path), table)
    subprocess.run([*command, "--unpack"], check=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("times_run*.csv")} == before


def test_readme_says_what_the_figures_show(committed):
    readme = (committed / "README.md").read_text()
    shown = re.findall(r"<!-- \w+: ([\w./]+)[^\n]* -->\n(.*?)<!-- end", readme, re.DOTALL)
    assert shown
    for path, text in shown:  # some or all of its lines, in their order
        lines, said = text.splitlines(), iter((committed / path).read_text().splitlines())
        assert lines and all(line in said for line in lines), path


def both_readmes(committed: Path) -> str:
    """Its main studies are in the first, the others in the one of cpu/."""
    return (committed / "README.md").read_text() + (committed / "cpu" / "README.md").read_text()


def test_the_numbers_of_readme_are_those_of_the_tables(committed):
    """Each decimal of its text is listed, with the table, row and column that it is from."""
    readme = both_readmes(committed)
    numbers = load("report/report_numbers.py")
    numbers.CPU = committed / "cpu"
    values = numbers.table_numbers()
    listed = pd.read_csv(committed / "report" / "readme_numbers.csv", dtype=str)
    origins = list(listed.itertuples(index=False, name=None))
    assert len(origins) >= 8
    for number, name in origins:
        digits = len(number.partition(".")[2])
        assert f"{values[name]:.{digits}f}" == number, name
    # Not those of tables that other tests compare, nor of what is typed into a shell.
    prose = re.sub(
        r"<!-- \w+: .*?<!-- end[^\n]*|```.*?```|^    .*?$", "", readme, flags=re.M | re.S
    )
    versions = r"(?:Python|torch|glibc|libmimalloc) ?[\d.]+"
    found = set(re.findall(r"\d+\.\d+", re.sub(versions, "", prose)))
    assert found == set(listed["number"])


def test_readme_has_the_verdicts_on_the_original_study(committed):
    """What README says of a claim is how the verdict begins that claims.py came to."""
    readme = (committed / "README.md").read_text()
    claims = pd.read_csv(committed / "report" / "claims.csv")
    for _, row in claims.iterrows():
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {row['claim']} |")]
        _, _, theirs, here, _ = (cell.strip() for cell in line.split("|"))
        assert row["its_verdict"].startswith(theirs) and row["verdict"].startswith(here)


def test_readme_shows_what_the_script_prints(committed, tmp_path):
    """The sample of a sweep's end is of the published rows."""
    script = committed / "cpu" / "plot_cpu_results.py"
    command = [sys.executable, script, "--published", "--output", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    printed = [line.strip() for line in done.stdout.splitlines()]
    readme = (committed / "README.md").read_text()
    sample = re.search(r"\(here of the published rows\):\n\n(.*?)\n\n", readme, re.DOTALL)[1]
    assert len(sample.splitlines()) >= 5
    assert all(line.strip() in printed for line in sample.splitlines())


def listed(study: str) -> set[str]:
    """The configurations that a study measures on two cores."""
    done = subprocess.run(
        [REPOSITORY / "cpu" / "run_study.sh", study, "--list"],
        env=os.environ | {"DEVICES": "2", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.split()[0] for line in done.stdout.splitlines()}


def test_minutes_in_readme_are_those_of_the_published_sessions(committed):
    readme = both_readmes(committed)
    rows = re.findall(
        r"^\| \[(\w+)\]\((?:cpu/)?studies/.*\| (\d+)(?: a round)? \|$", readme, re.MULTILINE
    )
    checked = 0
    for study, minutes in rows:
        folder = committed / "cpu" / "studies" / study
        if not (folder / "runs" / "runs.csv").is_file():  # one is older than the log
            continue
        runs = pd.read_csv(folder / "runs" / "runs.csv")
        if study == "shares":  # its parts were measured in several sessions; some are of the past
            more = [pd.read_csv(folder / f"runs_{number}" / "runs.csv") for number in (2, 3)]
            runs = pd.concat([runs, *more]).drop_duplicates(["configuration", "run_id"])
            names = listed(study)
            assert names <= set(runs["configuration"])
            runs = runs[runs["configuration"].isin(names)]
        assert abs(runs["wall_s"].sum() / 60 - int(minutes)) < 1, study
        checked += 1
    assert len(rows) >= 12 and checked >= 11


def test_readme_names_what_is_there(committed):
    """Its links, and the files that its commands start."""
    readme = (committed / "README.md").read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert links and all((committed / link).exists() for link in links), links
    scripts = set(re.findall(r"[\w./]+\.(?:py|sh)\b", readme))
    found = {path.name for path in committed.rglob("*") if path.suffix in (".py", ".sh")}
    names = {name.split("/")[-1] for name in scripts} - {"NAME.py", "NAME.sh"}
    assert names and names <= found


def test_no_image_and_nothing_large_is_committed(committed):
    for path in committed.rglob("*"):
        if path.is_file():
            assert path.suffix.lower() not in (".jpeg", ".jpg", ".tar", ".tgz"), path
            assert path.stat().st_size < 2**20 or path.suffix in (".pdf", ".png"), path
