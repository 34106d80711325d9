"""Each mistake that a user can make gets one line that names the thing and the way out."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, load, read_rows

SCRIPTS = {
    "cpu": ("cpu/project_ex_1.py", []),
    "gpu": ("gpu/project_ex_2.py", ["--device", "cpu", "--workers", "0"]),
}
SMALL = ["--batch-size", "2", "--image-size", "32", "--steps", "1", "--warmup", "0"]


@pytest.fixture(params=SCRIPTS)
def run(request, monkeypatch, capfd, data, tmp_path):
    """Runs main() of a training script; gives its exit status and what it printed as errors."""
    path, options = SCRIPTS[request.param]

    def run_script(*arguments, ranks=1):
        script = load(path)
        monkeypatch.setattr(script, "RANKS", ranks)
        given = ["--data", data, "--output", tmp_path / "out.csv", *SMALL, *options, *arguments]
        monkeypatch.setattr(sys, "argv", [path, *map(str, given)])
        try:
            script.main()
            status = 0
        except SystemExit as end:
            status = end.code
        if script.dist.is_initialized():
            script.dist.destroy_process_group()
        return status, capfd.readouterr().err

    # The script pins its process and sets its threads: give the tests' process back as it was.
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield run_script
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def one_line(result, *words):
    status, err = result
    lines = err.splitlines()
    assert status in (1, 2) and len(lines) == 1 and lines[0].startswith("error: "), (status, err)
    for word in words:
        assert word in lines[0], (word, lines[0])


def test_batch_smaller_than_the_ranks(run):
    one_line(run("--batch-size", 2, ranks=3), "batch of 2", "3 ranks")
    one_line(run("--batch-size", 2, "--micro-batches", 3), "batch of 2", "3 ranks or micro-batches")


def test_no_data(run, tmp_path):
    one_line(run("--data", tmp_path / "nowhere"), "nowhere", "prepare_imagenette.py")


def test_empty_class(run, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for image in (copy / "train" / "n03000684").iterdir():
        image.unlink()
    one_line(run("--data", copy), "n03000684", "prepare_imagenette.py")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("loader", ["tensor", "pil"])
def test_undecodable_image(run, data, tmp_path, loader, workers):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    for image in (copy / "train").rglob("*.JPEG"):
        image.write_bytes(image.read_bytes()[:200])
    given = ["--data", copy, "--loader", loader, "--workers", workers]
    one_line(run(*given), "cannot decode", ".JPEG", "replace or remove it")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--stepps", "3"], ["--stepps", "--help"]),
        (["--batch-size", "0"], ["--batch-size", "expected an integer >= 1, got '0'"]),
        (["--precision", "fp8"], ["--precision", "fp8"]),
        (["--model", "resnet19"], ["'resnet19'", "did you mean resnet18?"]),
    ],
)
def test_unknown_options_and_values(run, arguments, words):
    one_line(run(*arguments), *words)


def test_unwritable_results(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    one_line(run("--output", tmp_path / "file" / "out.csv"), str(tmp_path / "file"))


@pytest.mark.parametrize("run", ["cpu"], indirect=True)
def test_more_threads_than_cores(run):
    one_line(run("--threads", 10_000), "10000 physical cores", "--oversubscribe")


def test_steps_that_do_not_add_up_to_the_clock(run, monkeypatch):
    whole_script = load

    def forgetful(path):
        script = whole_script(path)
        whole = script.Timeline.step_times
        monkeypatch.setattr(
            script.Timeline,
            "step_times",
            lambda self: [{**step, "step_time": 0.98 * step["step_time"]} for step in whole(self)],
        )
        return script

    monkeypatch.setitem(globals(), "load", forgetful)
    long = run("--steps", 8, "--image-size", 128)  # a second: 2 % of it are more than a tick
    one_line(long, "the steps add up to", "the clock says")


def test_a_good_run_after_all_that(run, tmp_path):
    status, err = run()
    assert status == 0, err
    assert len(read_rows(tmp_path / "out.csv")) == 1


def test_a_part_of_the_images_has_all_classes_and_says_so(data, tmp_path):
    script = REPOSITORY / "data" / "prepare_imagenette.py"
    command = [sys.executable, script, "--from", data, "--images", "50", "--output", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.rglob("*.JPEG"))) == 50 and len(list(folder.glob("*/*"))) == 20
    assert (folder / "label.txt").read_text().strip() == (
        "imagenette2-224-synthetic-50 (stand-in, not Imagenette)"
    )


def test_real_images_come_before_generated_ones(tmp_path, monkeypatch):
    """And what a killed download left is no data. (Review, defect 10.)"""
    script = load("cpu/project_ex_1.py")
    monkeypatch.setattr(script, "HERE", tmp_path / "cpu")
    names = ("imagenette2-224-synthetic", "imagenette2-320", "imagenette2-downloading-x/deeper")
    for name in names:
        (tmp_path / "data" / name / "train").mkdir(parents=True)
    assert script.find_data() == tmp_path / "data" / "imagenette2-320"
    (tmp_path / "data" / "imagenette2-320").rename(tmp_path / "elsewhere")
    assert script.find_data().name == "imagenette2-224-synthetic"
