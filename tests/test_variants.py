"""Are the faster settings compared rightly? Known rates, known losses, a short real training."""

import itertools
import math
import statistics

import pandas as pd
import pytest
from conftest import REPOSITORY, launch, load, read_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hostile import FUZZ, NASTY
from test_plots import run_plots, write_run

FACTORS = {  # off, on, and what that makes of a step's time
    "loader": ("pil", "tensor", 0.9375),
    "precision": ("fp32", "bf16", 0.5),
    "channels_last": (0, 1, 0.8),
    "memory": ("glibc", "kept", 1 / 1.2),
}


@pytest.fixture
def variants():
    return load("cpu/studies/variants.py")


def write_study(folder, **fast):
    """Six rounds in which the machine drifts: fast settings take a third of plain PyTorch's."""
    for run, drift in enumerate([1.0, 1.3, 0.9, 1.1, 1.6, 1.2], start=1):
        for on in itertools.product((False, True), repeat=4):
            own = dict(zip(FACTORS, on, strict=True))
            time = 8.0 * drift * math.prod(FACTORS[name][2] for name in own if own[name])
            options = {name: FACTORS[name][own[name]] for name in own} | (fast if all(on) else {})
            write_run(folder / "".join(str(int(o)) for o in on), 2, run, time, **options)
    losses = ["seed,setting,step,loss"]
    for seed, step in itertools.product(range(6), range(100)):
        loss = 1.0 if step >= 50 else 2.0
        losses.append(f"{seed},plain,{step},{loss}")
        losses.append(f"{seed},fast,{step},{loss + 0.01 * (seed - 2)}")
    (folder / "learning.csv").write_text("\n".join(losses) + "\n")


def named_runs(variants, *folders):
    runs = variants.results.read_runs(*folders)
    names = [variants.name_variant(run) for _, run in runs.iterrows()]
    return runs.assign(variant=names)


def test_known_gains_and_limits(variants, tmp_path):
    write_study(tmp_path)
    runs = named_runs(variants, tmp_path)
    table = variants.variant_table(runs).set_index("variant")
    fast = table.loc["tensor loader + bf16 + channels last + memory kept"]
    assert table.index[0] == variants.PLAIN and table.index[-1] == fast.name and len(table) == 16
    assert [fast[f"gain{end}"] for end in variants.results.ENDS] == pytest.approx([3.2] * 3)
    assert fast["rate"] == pytest.approx((12.8 / 1.1 + 12.8 / 1.2) / 2)
    factors = variants.factor_table(runs).set_index("factor")
    for kind in ("alone", "last", "mean"):
        assert factors[kind].tolist() == pytest.approx([1 / 0.9375, 2.0, 1.25, 1.2, 3.2])


def test_gains_by_occasion(variants, tmp_path):
    """Another occasion has the ends only, and another gain."""
    write_study(tmp_path / "runs")
    for run in range(1, 7):
        write_run(tmp_path / "runs_2" / "plain", 2, run, 8.0, loader="pil")
        write_run(
            tmp_path / "runs_2" / "fast",
            2,
            run,
            2.0,
            loader="tensor",
            precision="bf16",
            channels_last=1,
            memory="kept",
        )
    gains = variants.gain_table(named_runs(variants, tmp_path / "runs", tmp_path / "runs_2"))
    assert gains["occasion"].tolist() == ["runs", "runs_2", "together"]
    assert gains["gain"].tolist() == pytest.approx([3.2, 4.0, 3.6])


def test_known_difference_in_learning(variants, tmp_path):
    write_study(tmp_path)
    learning = variants.learning_table(pd.read_csv(tmp_path / "learning.csv")).iloc[0]
    text = load("common/tables.py").interval_text
    assert text(learning, "difference", 4) == "0.0050 [-0.0200, 0.0300]"
    assert text(learning, "percent", 1) == "0.5 [-2.0, 3.0]"
    assert learning["drop"] == pytest.approx(1.0)


def test_figures_of_variants_and_what_is_missing(tmp_path):
    write_study(tmp_path / "results")
    command = ["cpu/studies/variants.py", tmp_path / "results", "--output", tmp_path / "plots"]
    done = run_plots(*command)
    assert done.returncode == 0, done.stderr
    assert "| all together | 3.20 [3.20, 3.20] |" in done.stdout
    assert "](settings.png)" in (tmp_path / "plots" / "answers.md").read_text()
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "variants.csv",
        "settings.png",
        "settings.pdf",
        "factors.csv",
        "gains.csv",
        "summary.csv",
        "learning.csv",
        "answers.md",
    }
    (tmp_path / "results" / "learning.csv").unlink()
    done = run_plots(*command)
    assert done.returncode == 2 and "learning.csv" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:overflow", "ignore:invalid value")
@given(data=st.data())
@settings(max_examples=15, **FUZZ)
def test_hostile_variants(variants, monkeypatch, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hostile")
    write_study(folder / "results", options=data.draw(NASTY), dataset=data.draw(NASTY))
    monkeypatch.setattr(
        variants.figures,
        "save",
        lambda figure, _: (figure.canvas.draw(), variants.figures.plt.close(figure)),
    )
    arguments = [str(folder / "results"), "--output", str(folder / "plots")]
    args = variants.figures.read_arguments("", folder / "runs", arguments)
    with pytest.raises(SystemExit) as end:
        variants.figures.plot_results(
            args, lambda session: variants.study(session.runs, session.folder)
        )
    assert end.value.code in (0, 1, 2)
    assert {path.name for path in folder.iterdir()} <= {"results", "plots"}


def test_both_settings_begin_alike_and_learn(data, tmp_path):
    """The first loss is that of equal weights and images: apart by rounding and resampling only."""
    path = tmp_path / "learning.csv"
    options = ["--seeds", "1", "--steps", "20", "--image-size", "32", "--batch-size", "16"]
    script = REPOSITORY / "cpu" / "studies" / "measure_learning.py"
    done = launch(2, script, "--output", path, "--data", data, *options)
    assert done.returncode == 0, done.stderr
    losses = {"plain": [], "fast": []}
    for row in read_rows(path):
        losses[row["setting"]].append(float(row["loss"]))
    assert len(losses["plain"]) == len(losses["fast"]) == 20
    assert losses["fast"][0] == pytest.approx(losses["plain"][0], rel=0.05)
    assert losses["plain"][0] == pytest.approx(math.log(10), rel=0.3)
    for values in losses.values():
        assert statistics.mean(values[-5:]) < statistics.mean(values[:5])
