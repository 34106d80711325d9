"""How several nodes agree on the runs of a sweep, and on their order."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from datetime import timedelta
from typing import Any


class NodesError(Exception):
    """Nodes that cannot measure together, and why."""


def share_plan(runs: list, identity: dict[str, Any], settings: dict[str, str],
               check: Callable[[], None]) -> list:
    """What meet() returns or raises. It waits in C++, where no signal is heeded: therefore in a
    thread, while this one calls check, which may end the process."""
    future = Future()

    def work() -> None:
        try:
            future.set_result(meet(runs, identity, settings))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            return future.result(0.2)
        except TimeoutError:
            check()


def meet(runs: list, identity: dict[str, Any], settings: dict[str, str]) -> list:
    """Have all nodes take the runs that node 0 planned, in its order; they must have the same
    machine, code and data. torch's own store carries the plan, so no file system is shared.
    Raises NodesError if the nodes differ or do not meet."""
    from torch.distributed import TCPStore

    nodes, node = int(settings["NNODES"]), int(settings["NODE_RANK"])
    address, port = settings["MASTER_ADDR"], int(settings["MASTER_PORT"])
    limit, text = int(settings["RUN_TIMEOUT"]), json.dumps(identity, sort_keys=True)
    try:
        store = TCPStore(address, port, nodes, node == 0, timedelta(seconds=limit))
        if node == 0:
            store.set("runs", json.dumps(runs))
            store.set("identity", text)
        runs, same = json.loads(store.get("runs")), store.get("identity").decode() == text
        store.set(f"node {node}", "same" if same else "differs")  # node 0 may end the store now
        for other in range(nodes) if node == 0 else [node] * (not same):
            if not same or store.get(f"node {other}") != b"same":
                raise NodesError(f"node {other} has another machine, code or dataset than node 0")
        return runs
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise NodesError(f"port {port} is taken: set another MASTER_PORT") from None
        raise NodesError(
            f"the {nodes} nodes did not meet at {address}:{port} within {limit} s") from None
