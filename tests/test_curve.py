"""Does the curve find the losses that were put into cycles of phases?"""

import csv
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, load
from test_plots import COLUMNS, write_run

ALONE = 2.0  # seconds of a rank with the mean number of images, by itself
CONTENTION, IMBALANCE, COMMUNICATION = 1.05, 1.02, 1.03


@pytest.fixture(scope="module")
def curve():
    return load("cpu/studies/curve.py")


def write_cycles(path, run, images, cycles=6, faults=0.0, share="", cores="awake", step=ALONE):
    """A run in cycles over len(images) ranks; of several, the second one is the slowest. A rank by
    itself takes step (s)."""
    ranks, mean = len(images), sum(images) / len(images)
    own = {"run_id": run, "num_devices": ranks, "batch_size": sum(images), "model": "densenet121"}
    own |= {
        "memory": "kept",
        "threads": 1,
        "dataset": "made by hand",
    }
    own["options"] = "cycles=6" + (f";cores={cores}" if share and cores else "")
    own |= {"loader": "tensor", "precision": "fp32", "channels_last": 0, "micro_batches": 1}
    rows = []

    def add(mode, cycle, rank, seconds, warmup=0):
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | dict.fromkeys(
                ["loading_time", "communication_time", "optimizer_time", "backward_time"], 0.0
            )
            | own
            | {"mode": mode, "cycle": cycle, "rank": rank, "images": images[rank]}
            | {"step": len(rows) // ranks, "warmup": warmup, "step_time": seconds}
            | {"forward_time": seconds, "compute_time": seconds, "started_at": 0.0}
            | {"minor_faults": faults * rank, "cpu_share": share}
        )

    for rank in range(ranks):
        add("ddp", "", rank, 9.0, warmup=1)
    for cycle in range(cycles):
        drift = 1 + 0.1 * (cycle % 3)  # the machine's speed, in all phases of a cycle
        lone = cycle % ranks
        # Ranks differ by what they compute and, beyond that, by what spreads around 1.
        spread = [1.0] * ranks
        if ranks > 1:
            spread = [2 - IMBALANCE, IMBALANCE, *[1.0] * (ranks - 2)]
        seconds = [
            step * drift * part * count / mean for part, count in zip(spread, images, strict=True)
        ]
        together = [CONTENTION * one for one in seconds]
        add("alone", cycle, lone, seconds[lone])
        for rank in range(ranks):
            add("together", cycle, rank, together[rank])
        for rank in range(ranks):
            add("ddp", cycle, rank, COMMUNICATION * max(together))
    path.parent.mkdir(parents=True, exist_ok=True)
    # As the training script numbers its turns.
    turns: dict = {}
    for row in rows:
        row["step"] = turns.setdefault((row["cycle"], row["mode"]), len(turns))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path):
    for run in range(1, 7):
        write_cycles(tmp_path / "runs" / "even" / f"times_run{run}.csv", run, [16, 16])
        write_cycles(tmp_path / "runs" / "uneven" / f"times_run{run}.csv", run, [11, 11, 10])
        for batch in (32, 4):
            seconds = batch * (1.05 if batch == 4 else 1.0)
            write_run(tmp_path / "runs" / "one", 1, run, seconds, batch_size=batch, memory="kept")
    return tmp_path / "runs"


def test_losses_within_a_cycle(curve, folder):
    runs = load("common/results.py").read_runs(folder)
    study = curve.study(runs, folder)
    losses = study.tables["losses"].set_index("num_devices")
    assert losses["contention"].tolist() == pytest.approx([CONTENTION] * 2)
    assert losses["communication"].tolist() == pytest.approx([COMMUNICATION] * 2)
    assert losses.loc[2, "imbalance"] == pytest.approx(IMBALANCE)
    assert losses.loc[3, "split"] == pytest.approx(33 / 32)
    whole = CONTENTION * IMBALANCE * COMMUNICATION
    assert losses.loc[2, "efficiency"] == pytest.approx(1 / whole)
    batches = study.tables["batches"].set_index("batch_size")
    assert batches.loc[4, "per_image"] == pytest.approx(1.05)


def test_states_of_cores_and_the_speedup_that_follows(curve, tmp_path):
    for run in range(1, 7):
        for count in (2, 4, 5):
            path = tmp_path / "runs" / f"emulated{count}" / f"times_run{run}.csv"
            write_cycles(path, run, [4] * count, share="0.16")
        for cores, step in (("", 1.1 * ALONE), ("computing", 0.9 * ALONE)):
            path = tmp_path / "runs" / f"other4{cores}" / f"times_run{run}.csv"
            write_cycles(path, run, [4] * 4, share="0.16", cores=cores, step=step)
        for cores in ("awake", "computing"):
            path = tmp_path / "runs" / f"eight_{cores}" / f"times_run{run}.csv"
            write_cycles(path, run, [4] * 8, share="0.16", cores=cores)
        for batch, cost in ((32, 1.0), (7, 1.1), (4, 1.25)):  # of 5 devices the fullest has 7
            seconds = batch * cost
            write_run(tmp_path / "runs" / "one", 1, run, seconds, batch_size=batch, memory="kept")
    study = curve.study(load("common/results.py").read_runs(tmp_path / "runs"), tmp_path / "runs")
    states = study.tables["states"].set_index(["num_devices", "cores"])
    assert list(states.loc[8].index) == ["awake", "computing"]
    product = study.tables["product"].set_index("num_devices")["speedup"]
    whole = IMBALANCE * COMMUNICATION
    expected = {5: 32 / 7 / whole / 1.1, 8: 8 / whole / 1.25}
    assert product.to_dict() == pytest.approx(expected)
    states = states.loc[4]
    assert list(states.index) == ["asleep", "awake", "computing"]
    assert states["alone"].drop("awake").tolist() == pytest.approx([1.1, 0.9])
    assert states["contention"].tolist() == pytest.approx([CONTENTION] * 3)
    assert "| 4 | computes | 6 |" in study.text
    assert len(study.tables["losses"]) == 4


def test_sessions_on_one_machine_are_taken_together_and_shown_each(curve, tmp_path):
    """Two sessions of one processor, a third of another that only shares its name; of touching
    memory the last session counts."""
    sessions = {"runs": "AVX2", "runs_2": "AVX2", "runs_3": "AVX512"}
    for number, (name, capability) in enumerate(sessions.items(), start=1):
        folder = tmp_path / name
        for run in (1, 2, 3):
            write_cycles(folder / "even" / f"times_run{run}.csv", run, [4, 4])
        identity = {"cpu_model": "A CPU", "cores_granted": 2, "cpu_capability": capability}
        recorded = {"date": f"2026-11-2{number}T10:00:00+00:00"}
        text = json.dumps({"identity": identity, "recorded": recorded})
        (folder / "environment.json").write_text(text)
        (folder / "touch.csv").write_text(f"round,gib,us_per_page\n1,1,{number}\n2,1,9\n")
    pauses = "1,awake,product,0,9\n1,awake,product,1,4\n2,awake,product,0,8\n3,awake,product,0,6\n"
    pauses += "1,computing,product,0,4\n2,computing,product,1,4\n"
    (tmp_path / "runs" / "pause.csv").write_text(f"round,cores,work,ms,us\n{pauses}")
    folders = [tmp_path / name for name in sessions]
    study = curve.study(load("common/results.py").read_runs(*folders), folders[0])
    losses = study.tables["losses"].set_index("machine")
    assert losses["runs"].to_dict() == {"A CPU, AVX2": 6, "A CPU, AVX512": 3}
    assert losses["sessions"].to_dict() == {"A CPU, AVX2": 2, "A CPU, AVX512": 1}
    assert study.tables["sessions"]["runs"].tolist() == [3, 3, 3]
    repeated = study.text.split("Would it repeat?")[1].split("What touching")[0]
    assert "| 2026-11-21 10:00 |" in repeated and "| 2026-11-22 10:00 |" in repeated
    assert "2026-11-23" not in repeated
    pauses = study.tables["pause"].set_index("cores")
    assert pauses.loc["awake", ["0 ms", "1 ms", "turn"]].tolist() == [8, 4, 1.5]
    assert study.tables["touch"].to_dict("list") == {"gib": [1], "round 1": [3], "round 2": [9]}


def spread_cycles(curve, spread):
    """Cycles of 2 to 8 ranks with 4 images each, whose own steps are ALONE times what spread(ranks)
    draws."""
    rows = []
    for ranks in (2, 4, 8):
        for cycle in range(200):
            key = dict.fromkeys(curve.RUN, "") | {"num_devices": ranks, "batch_size": 4 * ranks}
            key |= {"run_id": cycle // 40, "cycle": cycle, "images": 4, "memory": "kept"}
            steps = ALONE * spread(ranks)
            for rank, seconds in enumerate(steps):
                rows.append(key | {"mode": "together", "rank": rank, "step_time": seconds})
                rows.append(key | {"mode": "ddp", "rank": rank, "step_time": max(steps)})
            rows.append(key | {"mode": "alone", "rank": 0, "step_time": steps[0]})
    medians = curve.run_medians(curve.cycle_table(pd.DataFrame(rows)))
    return curve.loss_table(medians, curve.IN_SESSION)


def test_waiting_of_ranks_that_differ_by_chance_is_predicted_from_two(curve):
    """And not where one rank is always the slow one."""
    random = np.random.default_rng(1)
    chance = curve.waiting_table(spread_cycles(curve, lambda n: random.normal(1, 0.03, n)))
    assert chance["num_devices"].tolist() == [4, 8]
    assert chance["error"].max() < 0.005
    simpler = np.minimum(chance["error_as_on_two"], chance["imbalance"] - 1)  # or no waiting
    assert (chance["error"] < simpler).all()
    fixed = curve.waiting_table(spread_cycles(curve, lambda n: np.eye(n)[0] * 0.03 + 1))
    eight = fixed.iloc[-1]
    assert eight["error"] > eight["error_as_on_two"]


def test_every_run_has_the_cycles_that_were_asked_for(data, tmp_path):
    """The study's file is read twice, the second time with what it exported. (Each run had one.)"""
    settings = {"CYCLES": "7", "PARTS": "cores", "RESULTS_DIR": tmp_path / "rows"}
    settings |= {"PYTHON": sys.executable, "DATA_DIR": data}
    done = subprocess.run(
        [REPOSITORY / "cpu" / "run_study.sh", "curve", "--dry-run"],
        env=os.environ | {name: str(value) for name, value in settings.items()},
        capture_output=True,
        text=True,
        check=True,
    )
    planned = [line for line in done.stdout.splitlines() if " runs of " in line]
    assert len(planned) == 4 and all(line.endswith("--cycles 7") for line in planned)


def test_kernel_time_of_ranks_that_follows_their_faults(curve):
    """Rank 1 faults more from cycle to cycle, at 2 us each; its step is as long as rank 0's."""
    one = {"occasion": "a", "machine": "m", "cpu_share": "", "memory": "glibc", "cores": ""}
    one |= {"num_devices": 2, "batch_size": 32, "run_id": 1, "mode": "together"}
    rows = []
    for cycle, rank in np.ndindex(6, 2):
        faults = 1000.0 * rank * (cycle + 1)
        own = {"cycle": cycle, "rank": rank, "minor_faults": faults}
        rows.append(one | own | {"system_time": 2e-6 * faults, "step_time": 1.0 + cycle % 2 * rank})
    table = curve.fault_table(pd.DataFrame(rows)).iloc[0]
    assert table["us_per_fault"] == pytest.approx(2) and table["thousand_faults"] == 3.5
    assert table["system_time_r"] == pytest.approx(1) and abs(table["step_time_r"]) < 0.5
    assert curve.fault_table(pd.DataFrame(rows).assign(memory="kept")).empty


def test_touching_memory_counts_its_pages(tmp_path):
    script = load("cpu/studies/measure_faults.py")
    block = script.mmap.mmap(-1, 64 * 2**20)
    before = script_faults()
    assert script.touch(block) > 0
    assert script_faults() - before == pytest.approx(64 * 256, rel=0.1)


def test_work_after_each_kind_of_pause(tmp_path, monkeypatch):
    """All kinds and works, each over a turn; the pauses are as long as they should be."""
    script = load("cpu/studies/measure_pause.py")
    output = tmp_path / "pause.csv"
    cores = os.sched_getaffinity(0)
    monkeypatch.setattr(script, "PAUSES", 2)
    try:
        for number in (1, 2):
            arguments = ["measure_pause.py", "--round", str(number), "--output", str(output)]
            monkeypatch.setattr(sys, "argv", arguments)
            begun = time.perf_counter()
            script.main()
            assert time.perf_counter() - begun > 2 * 6 * (script.PAUSE_S + script.TURN_S)
    finally:
        os.sched_setaffinity(0, cores)
    rows = pd.read_csv(output)
    found = rows.groupby(["round", "cores", "work"])["ms"].agg(["min", "max"])
    assert len(found) == 2 * 3 * 2 and (found["min"] == 0).all() and found["max"].max() == 7
    assert (rows["us"] > 0).all() and (rows.groupby("work")["us"].median() < 1000).all()


def script_faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
