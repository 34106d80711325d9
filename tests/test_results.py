"""Do the committed numbers, figures and words belong together? Reads what is committed at HEAD, so
that it passes whatever a user's own sweep leaves in the working tree."""

import hashlib
import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from conftest import REPOSITORY, load, read_rows

STUDIES = "cpu/studies"


def tracked(pattern: str) -> list[str]:
    done = subprocess.run(["git", "-C", REPOSITORY, "ls-files", pattern], capture_output=True,
                          text=True)  # fmt: skip
    return done.stdout.split()


ROWS = [path.removesuffix("/environment.json") for path in tracked("*/environment.json")]
PLOTS = {"cpu/plot_cpu_results.py": ([p for p in ROWS if p.startswith("cpu/cpu_run")],
                                     "cpu/cpu_plots")} | {
    path: ([path.replace("plot.py", "runs"), *(p for p in ROWS if re.fullmatch(
        path.replace("plot.py", r"runs_\d+"), p))], path.replace("plot.py", "plots"))
    for path in tracked(f"{STUDIES}/*/plot.py") if tracked(path.replace("plot.py", "runs/*"))
}


def at_commit(commit: str, *paths: str) -> bytes:
    """The first of these files that there was at a commit; skips where history is missing."""
    for path in paths:
        done = subprocess.run(["git", "-C", REPOSITORY, "show", f"{commit}:{path}"],
                              capture_output=True)  # fmt: skip
        if done.returncode == 0:
            return done.stdout
    pytest.skip(f"commit {commit[:8]} is not in this clone's history")


@pytest.mark.parametrize("results", ROWS)
def test_rows_are_complete_and_of_the_recorded_code(committed, results, tmp_path):
    folder = committed / results
    environment = json.loads((folder / "environment.json").read_text())
    identity, commit = environment["identity"], environment["recorded"]["commit"]
    assert "-dirty" not in commit
    paths = sorted(folder.rglob("times_run*.csv"))
    assert paths
    for path in paths:
        rows = read_rows(path)
        assert path.name == f"times_run{rows[0]['run_id']}.csv"
        assert rows[0]["dataset"] == identity["dataset"]
    code = at_commit(commit, "cpu/project_ex_1.py")
    if "shared_block" in identity:  # older rows identify their code by the block's text
        block = code.decode().split("# ---- shared")[1]
        assert identity["shared_block"] == hashlib.sha256(block.encode()).hexdigest()
    else:
        script = tmp_path / "project_ex_1.py"
        script.write_bytes(code)
        assert identity["code"] == load("common/identity.py").code_hash([script])


@pytest.mark.parametrize("script", PLOTS)
def test_summary_is_what_the_rows_give(committed, script, tmp_path):
    results, figures = PLOTS[script][0], committed / PLOTS[script][1]
    results = [committed / path for path in results]
    command = [sys.executable, committed / script, *results, "--output", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in figures.glob("*.csv"):
        made = [pd.read_csv(folder / path.name) for folder in (tmp_path, figures)]
        pd.testing.assert_frame_equal(*made, rtol=1e-9)
    for path in figures.glob("*.md"):
        assert (tmp_path / path.name).read_text() == path.read_text()
    # Every figure that lies there is drawn by the script, and the other way round.
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in figures.iterdir()}


def test_readme_says_what_the_figures_show(committed):
    readme = (committed / "README.md").read_text()
    shown = re.findall(r"<!-- \w+: ([\w./]+)[^\n]* -->\n(.*?)<!-- end", readme, re.DOTALL)
    assert len(shown) >= 4
    for path, text in shown:  # some or all of its lines
        lines, said = text.splitlines(), (committed / path).read_text().splitlines()
        assert lines and [line for line in said if line in lines] == lines, path


def test_readme_names_what_is_there(committed):
    """Its links, and the files that its commands start."""
    readme = (committed / "README.md").read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert links and all((committed / link).exists() for link in links), links
    scripts = set(re.findall(r"[\w./]+\.(?:py|sh)\b", readme))
    found = {path.name for path in committed.rglob("*") if path.suffix in (".py", ".sh")}
    assert scripts and {name.split("/")[-1] for name in scripts} <= found


def test_no_image_and_nothing_large_is_committed(committed):
    for path in committed.rglob("*"):
        if path.is_file():
            assert path.suffix.lower() not in (".jpeg", ".jpg", ".tar", ".tgz"), path
            assert path.stat().st_size < 2**20 or path.suffix in (".pdf", ".png"), path
