"""The curve from 1 to 8 devices, and its losses: each measured in one run, against its own absence.

In each cycle of a run one rank is alone, then all compute together without communication, then they
train data parallel; the order rotates. Within a cycle, seconds apart:

    contention     the same rank's step, together over alone
    imbalance      the slowest rank's step over the mean, together, beyond an uneven split
    communication  the data-parallel step over the slowest one together

A run is the median over its cycles. Sessions on one machine are taken together, and are shown each
by itself too: these ratios are within runs, so that no session has to be as fast as another.
Emulated devices have their cores kept awake by a loop; other configurations let them fall asleep,
or let the loop compute, to see what that does. What a smaller batch costs is measured on one core.
"""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from tables import measure_all, median, over

RATIOS = ["contention", "imbalance", "communication"]
WORDS = {
    "contention": "all cores busy, against one",
    "imbalance": "the slowest rank, against the mean",
    "communication": "communication, against none",
}
KEYS = ["machine", "cpu_share", "memory", "num_devices", "batch_size"]
IN_SESSION = ["occasion", *KEYS]  # a session: a sweep on one machine
RUN = [*IN_SESSION, "run_id", "cores"]
STATES = {  # of a core while no emulated device has its turn
    "asleep": "may fall asleep",
    "awake": "runs an empty loop",
    "computing": "computes",
}
TOTAL = 32  # images of the batch whose speed-up is asked for
PREDICTED = ["predicted", "predicted_low", "predicted_high"]


# ---- within a cycle


def cycle_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run and cycle: steps (s) and their ratios."""
    keys = [*RUN, "cycle"]
    phases = {}
    for mode in ("alone", "together", "ddp"):
        phases[mode] = rows[rows["mode"] == mode].set_index([*keys, "rank"])
    alone, together, parallel = (part["step_time"] for part in phases.values())
    images = phases["together"]["images"].groupby(level=keys)
    table = pd.DataFrame({"alone": alone, "own": together.reindex(alone.index)})
    table = table.droplevel("rank")
    by_cycle = together.groupby(level=keys)
    table["together"], table["slowest"] = by_cycle.mean(), by_cycle.max()
    table["parallel"] = parallel.groupby(level=keys).max()
    table["split"] = images.max() / images.mean()
    table["contention"] = table["own"] / table["alone"]
    table["imbalance"] = table["slowest"] / table["together"] / table["split"]
    table["communication"] = table["parallel"] / table["slowest"]
    table["longer"] = table[RATIOS].prod(axis=1)
    table["lost"] = table["imbalance"] * table["communication"]
    return table.reset_index()


def run_medians(cycles: pd.DataFrame) -> pd.DataFrame:
    """One row per run: medians over its cycles, which are skewed."""
    names = [*RATIOS, "longer", "lost", "split", "alone"]
    runs = cycles.groupby(RUN)[names].median().reset_index()
    return runs.assign(cycles=cycles.groupby(RUN).size().to_numpy())


def loss_table(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row per configuration, told apart by keys: the three losses, the efficiency that they
    leave, and what the last two of them leave: emulated devices have no contention, and what they
    show of it is the emulation's error."""
    table = []
    for key, own in runs.groupby(keys):
        own = own.assign(efficiency=1 / own["longer"], left=1 / own["lost"])
        row = dict(zip(keys, key, strict=True)) | {"runs": len(own), "cycles": own["cycles"].sum()}
        row["sessions"] = own["occasion"].nunique()
        row["device"] = "core" if row["cpu_share"] == "" else "emulated device"
        row["images"] = row["batch_size"] / row["num_devices"]
        row["split"] = own["split"].median()
        measures = {name: median(name) for name in [*RATIOS, "efficiency", "left"]}
        table.append(row | measure_all(own, measures))
    return pd.DataFrame(table)


def waiting_table(sessions: pd.DataFrame) -> pd.DataFrame:
    """Waiting, if ranks differed by chance alone, each step anew: their spread is that of two ranks
    in a machine's first session, the rest predicted, for as many images each. Beside it what knows
    less: as much as two ranks have."""
    table = []
    even = sessions[sessions["split"] == 1]
    for _, own in even.groupby(["machine", "cpu_share", "memory", "images"]):
        two = own[own["num_devices"] == 2]
        if two.empty:
            continue
        ends = ["imbalance", "imbalance_low", "imbalance_high"]
        base = two[ends].iloc[0].to_numpy(float)
        for _, row in own[own["num_devices"] > 2].iterrows():
            growth = slowest_of(int(row["num_devices"])) / slowest_of(2)
            predicted = dict(zip(PREDICTED, 1 + (base - 1) * growth, strict=True))
            row = row[[*IN_SESSION, "images", "runs", *ends]].to_dict() | predicted
            row["error"] = abs(row["predicted"] - row["imbalance"])
            row["error_as_on_two"] = abs(base[0] - row["imbalance"])
            table.append(row)
    return pd.DataFrame(table)


def slowest_of(ranks: int, draws: int = 200_000) -> float:
    """The median by which the largest of so many normal draws (standard deviation 1) exceeds their
    mean."""
    normal = np.random.default_rng(0).normal(size=(draws, ranks))
    return float(np.median(normal.max(axis=1) - normal.mean(axis=1)))


def state_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What the cores do while no emulated device has its turn: where a session has several of
    these, a row for each. The step of a device alone is over that beside the empty loop, in the
    same rounds; the other two ratios are within runs."""
    table = []
    emulated = runs[runs["cores"] != ""]
    several = emulated.groupby(IN_SESSION)["cores"].transform("nunique") > 1
    for key, session in emulated[several].groupby(IN_SESSION):
        base = session[session["cores"] == "awake"]
        for state in STATES:
            own = session[session["cores"] == state]
            if own.empty or base.empty:
                continue
            row = dict(zip(IN_SESSION, key, strict=True)) | {"cores": state, "runs": len(own)}
            row["words"] = STATES[state]
            own = own.assign(efficiency=1 / own["longer"])
            measures = {name: median(name) for name in (*RATIOS, "efficiency")}
            row |= measure_all(own, measures | {"alone": over(base, "alone")})
            table.append(tables.of_one_run(row, ["alone"]) if state == "awake" else row)
    return pd.DataFrame(table)


# ---- beside it


def batch_table(runs: pd.DataFrame) -> pd.DataFrame:
    """On one core of each machine: time per image at a batch over that at 32, in the same round."""
    one = runs[(runs["num_devices"] == 1) & (runs["cpu_share"] == "")]
    one = one.assign(per_image=one["step_time"] / one["batch_size"])
    table = []
    for (machine, memory), own in one.groupby(["machine", "memory"]):
        base = own[own["batch_size"] == TOTAL]
        for batch, runs_of_batch in own.groupby("batch_size"):
            row = {"machine": machine, "memory": memory, "batch_size": batch}
            row["runs"] = len(runs_of_batch)
            row |= measure_all(runs_of_batch, {"per_image": over(base, "per_image")})
            table.append(tables.of_one_run(row, ["per_image"]) if batch == TOTAL else row)
    return pd.DataFrame(table)


def product_table(losses: pd.DataFrame, batches: pd.DataFrame) -> pd.DataFrame:
    """The speed-up of a batch of 32 that follows from what its split allows, from what an image
    costs in the smaller batch that each device has, and from what waiting and communication leave
    with 4 images on each emulated device (whose cores run an empty loop), as if they took the same
    part of a step with more images; its ends are those that both intervals allow."""
    measured = losses[(losses["cpu_share"] != "") & (losses["images"] == 4)]
    if measured.empty or batches.empty:
        return pd.DataFrame()
    cost = batches.set_index(["machine", "memory", "batch_size"])
    table = []
    for _, row in measured.iterrows():
        most = -(-TOTAL // row["num_devices"])  # images on the fullest device
        key = (row["machine"], row["memory"], most)
        if key in cost.index:
            batch, allowed = cost.loc[key], TOTAL / most
            low = allowed * row["left_low"] / batch["per_image_high"]
            high = allowed * row["left_high"] / batch["per_image_low"]
            speedup = (allowed * row["left"] / batch["per_image"], low, high)
            own = row[["machine", "num_devices"]].to_dict() | {"allowed": allowed}
            table.append(own | results.named_interval("speedup", speedup))
    return pd.DataFrame(table)


def read_last(sessions: list[Path], name: str) -> pd.DataFrame:
    """What the last session measured besides that has it; empty if none has."""
    paths = [session / name for session in sessions]
    measured = [path for path in paths if path.is_file()]
    return pd.read_csv(measured[-1]) if measured else pd.DataFrame()


def fault_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Two ranks with default malloc that compute together: how far they are apart in a cycle, in
    page faults, in the kernel's time for them (s) and in their steps (s)."""
    own = rows[(rows["mode"] == "together") & (rows["memory"] == "glibc")]
    own = own[own["num_devices"] == 2]
    if own.empty:
        return own
    names = ["minor_faults", "system_time", "step_time"]
    ranks = own.pivot_table(index=[*RUN, "cycle"], columns="rank", values=names)
    apart = ranks.xs(1, axis=1, level="rank") - ranks.xs(0, axis=1, level="rank")
    faults = apart["minor_faults"]
    row = {"cycles": len(apart), "thousand_faults": faults.abs().mean() / 1000}
    for name in ("system_time", "step_time"):
        row |= {name: apart[name].abs().mean(), f"{name}_r": faults.corr(apart[name])}
    row["us_per_fault"] = 1e6 * np.polyfit(faults, apart["system_time"], 1)[0]
    return pd.DataFrame([row])


def touch_table(touched: pd.DataFrame) -> pd.DataFrame:
    """What touching a page costs (us) by how much memory is in use (GiB), a column per round."""
    if touched.empty:
        return touched
    table = touched.pivot(index="gib", columns="round", values="us_per_page")
    return table.add_prefix("round ").reset_index()


def pause_table(paused: pd.DataFrame) -> pd.DataFrame:
    """By what the core did in a pause: how long a small matrix product and a loop of integers take
    (us) in each ms after it, the median over rounds; the mean of these, over a computing core's."""
    if paused.empty:
        return paused
    times = paused.groupby(["work", "cores", "ms"])["us"].median().unstack("ms")
    turn = times.mean(axis=1)
    base = turn.xs("computing", level="cores")
    times = times.rename(columns=lambda ms: f"{ms} ms").assign(turn=turn.div(base, level="work"))
    return times.reset_index().assign(words=lambda table: table["cores"].map(STATES))


# ---- the study


def configuration_name(row: pd.Series) -> str:
    malloc = tables.MALLOCS.get(row["memory"], row["memory"])
    count = figures.count_text(row["num_devices"], row["device"])
    return f"{count}, {row['images']:.3g} images each, {malloc}"


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    folders = [folder.with_name(name) for name in runs["occasion"].unique()]
    rows = results.read_phases(*folders)
    tables.require(rows, "cycles")
    rows["cores"] = cores_between_turns(rows)
    machines = {session.name: results.machine_name(session) for session in folders}
    rows["machine"] = rows["occasion"].map(machines)
    runs = runs.assign(machine=runs["occasion"].map(machines))
    cycles = cycle_table(rows)
    medians = run_medians(cycles)
    awake = medians[medians["cores"].isin(["", "awake"])]
    tables.require(awake, "cycles of cores kept awake")
    losses, sessions = loss_table(awake, KEYS), loss_table(awake, IN_SESSION)
    made = {"losses": losses, "faults": fault_table(rows)}
    made["touch"] = touch_table(read_last(folders, "touch.csv"))
    made["pause"] = pause_table(read_last(folders, "pause.csv"))
    made |= {"batches": batch_table(runs), "waiting": waiting_table(sessions)}
    made |= {"states": state_table(medians), "sessions": sessions}
    made["product"] = product_table(losses, made["batches"])
    text = loss_text(losses) + session_text(sessions, folder)
    text += tables.markdown(
        made["waiting"],
        "The slowest rank, against the mean: if ranks differ by chance alone, predicted from two "
        "in the first session.",
        {"occasion": "rows", "num_devices": "devices"}
        | {"imbalance": "measured", "predicted": "predicted"}
        | {"error": "error", "error_as_on_two": "of: as on two"},
        3,
    )
    text += tables.markdown(
        made["states"],
        "Emulated devices, by what a core does while none of them has its turn.",
        {"num_devices": "devices", "words": "a core in between", "runs": "runs"}
        | {"alone": "a step of one alone, over the empty loop's"}
        | WORDS
        | {"efficiency": "efficiency"},
        3,
    )
    text += tables.markdown(
        made["product"],
        "The speed-up of a batch of 32 that follows from what its split allows, from what an image "
        "costs in a smaller batch, and from what waiting and communication leave of it, with 4 "
        "images on each emulated device.",
        {"machine": "machine", "num_devices": "devices", "allowed": "the split allows"}
        | {"speedup": "speed-up over one"},
    )
    text += tables.markdown(
        made["pause"],
        "What work takes (us) so many ms after a pause of 42 ms, without training.",
        {"work": "work", "words": "the core in the pause"}
        | {name: name for name in made["pause"] if name.endswith(" ms")}
        | {"turn": "all of them, over a core's that computed"},
    )
    text += tables.markdown(
        made["batches"],
        "What an image takes on one core in a smaller batch, over that in one of 32.",
        {"machine": "machine", "memory": "malloc", "batch_size": "batch", "runs": "runs"}
        | {"per_image": "ratio"},
        3,
    )
    text += tables.markdown(
        made["faults"],
        "Two ranks with default malloc, without communication: how far they are apart in a cycle, "
        "and how that goes with their page faults (r: correlation).",
        {"cycles": "cycles", "thousand_faults": "thousand page faults"}
        | {"system_time": "kernel time (s)", "system_time_r": "r", "us_per_fault": "us per fault"}
        | {"step_time": "step (s)", "step_time_r": "r of the step"},
    )
    text += tables.markdown(
        made["touch"],
        "What touching a page costs (us) without training, by how much memory is in use (GiB): one "
        "round after the other.",
        {name: name for name in made["touch"]},
    )
    return tables.Study(made, text)


def loss_text(losses: pd.DataFrame) -> str:
    """The losses of each configuration, sessions on one machine together."""
    columns = {"machine": "machine", "configuration": "configuration", "sessions": "sessions"}
    return tables.markdown(
        losses.assign(configuration=losses.apply(configuration_name, axis=1)),
        "What is lost, each as a factor on the step, within a run; efficiency is what is left.",
        columns
        | {"runs": "runs"}
        | WORDS
        | {"efficiency": "efficiency", "left": "of the last two"},
        3,
    )


def session_text(sessions: pd.DataFrame, folder: Path) -> str:
    """Where a machine has several sessions of a configuration, each by itself."""
    several = sessions[sessions.duplicated(KEYS, keep=False)].sort_values([*KEYS, "occasion"])
    if several.empty:
        return ""
    dates = []
    for name in several["occasion"]:
        date = str(results.read_environment(folder.with_name(name)).get("date", "not recorded"))
        dates.append(date[:16].replace("T", " "))
    return tables.markdown(
        several.assign(
            begun=dates, configuration=several.apply(configuration_name, axis=1).to_list()
        ),
        "Would it repeat? Each session by itself, by when it began.",
        {"begun": "begun", "configuration": "configuration", "runs": "runs"}
        | WORDS
        | {"efficiency": "efficiency"},
        3,
    )


def cores_between_turns(rows: pd.DataFrame) -> pd.Series:
    """What each row's cores do while no emulated device has its turn; of real cores, nothing."""
    noted = rows["options"].str.extract(r"cores=(\w+)")[0].fillna("asleep")
    return noted.where(rows["cpu_share"] != "", "")
