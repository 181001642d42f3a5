"""How many commands this machine accepts and delivers: real Postgres, Valkey, worker and stand-ins, one worker process.

`make bench` prints the figures and keeps them as JSON. Compare figures of one run with each other only: other work on
the machine moves them all.
"""

import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from config.settings import load_settings
from ingress.system import Plan, System
from sandbox.children import Child
from sandbox.forms import write_forms
from sandbox.standins import controls
from tasks.app import Entrega

DELIVERIES = 1000
_PATIENCE_S = 300.0
_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figures:
    """One run.

    Attributes:
        start_s: From `entrega up` to ready, first start of a new data folder.
        submits_per_s: Durable single submits from one producer thread.
        deliveries_per_s: From the first submit to the last receipt, with the submits going on meanwhile.
        worker_cpu_ms: CPU time of the worker process for each delivery.
        effects: What the stand-in really did; must equal the deliveries.
    """

    deliveries: int
    latency_ms: int
    start_s: float
    submits_per_s: float
    deliveries_per_s: float
    worker_cpu_ms: float
    effects: int


def main() -> int:
    """Measure at two provider latencies, print, keep the results; return 0 when every delivery took effect once."""
    runs = [_measure(latency_ms) for latency_ms in (0, 100)]
    _print(runs)
    _RESULTS.mkdir(exist_ok=True)
    machine = {"cores": psutil.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    kept = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "runs": [asdict(r) for r in runs],
    }
    (_RESULTS / "throughput.json").write_text(json.dumps(kept, indent=2) + "\n")
    return 0 if all(each.effects == each.deliveries for each in runs) else 1


def _measure(latency_ms: int) -> Figures:
    with tempfile.TemporaryDirectory(prefix="entrega-bench-") as folder:
        data = Path(folder)
        data.chmod(0o711)
        own = load_settings({"entrega_env": "sandbox", "entrega_data": data, "entrega_port": 0})
        settings = own.model_copy(update={"database_url": None, "redis_url": None})
        system = System(Plan(settings, sandbox=True), lambda _: None)
        write_forms(data / "forms")
        system.variables |= {"ENTREGA_ENV": "sandbox", "ENTREGA_INTEGRATIONS": str(data / "forms")}
        began = time.monotonic()
        try:
            system.start()
            return _run(system, latency_ms, time.monotonic() - began)
        finally:
            system.stop()


def _run(system: System, latency_ms: int, start_s: float) -> Figures:
    graph = controls(system.standins_or_fail)["graph"]
    graph.configure({"latency_s": latency_ms / 1000})
    app = Entrega("bench")
    app.settings = load_settings({name.lower(): value for name, value in system.variables.items()})
    worker = psutil.Process(_pid(system))
    cpu = sum(worker.cpu_times()[:2])
    began = time.monotonic()
    for n in range(DELIVERIES):
        app.intake.submit("send_whatsapp", {"to": f"+55119{90000000 + n}", "text": f"Pedido {n}"}, producer="bench")
    submitted = time.monotonic()
    _await_all(app, began + _PATIENCE_S)
    ended = time.monotonic()
    return Figures(
        deliveries=DELIVERIES,
        latency_ms=latency_ms,
        start_s=round(start_s, 2),
        submits_per_s=round(DELIVERIES / (submitted - began), 1),
        deliveries_per_s=round(DELIVERIES / (ended - began), 1),
        worker_cpu_ms=round((sum(worker.cpu_times()[:2]) - cpu) / DELIVERIES * 1000, 2),
        effects=sum(graph.effects_per_key().values()),
    )


def _pid(system: System) -> int:
    worker = system.parts["worker1"]
    if not isinstance(worker, Child):
        raise TypeError("the worker is not a child process")
    return worker.pid


def _await_all(app: Entrega, deadline: float) -> None:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("delivering", total=DELIVERIES)
        done = 0
        while done < DELIVERIES and time.monotonic() < deadline:
            done = app.archive.counts().get(("succeeded", "send_whatsapp"), 0)
            progress.update(bar, completed=done)
            time.sleep(0.05)


def _print(runs: list[Figures]) -> None:
    table = Table("figure", *(f"{each.latency_ms} ms latency" for each in runs), box=None, header_style="dim")
    for name in Figures.__dataclass_fields__:
        table.add_row(name, *(str(getattr(each, name)) for each in runs))
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
