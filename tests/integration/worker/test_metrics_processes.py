"""Counts of several real processes, one of them killed, add up in a process that counted nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.running import clear_metrics_folder
from worker.metrics import render_metrics

ROOT = Path(__file__).resolve().parents[3]
COUNTING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from worker.metrics import make_recorder

recorder = make_recorder(enabled=True)
make_recorder(enabled=True)  # a second one shares the files instead of tearing them

def answer(_):
    recorder.answered(
        service="crm", operation="create_lead", outcome="succeeded", code="ok", took=timedelta(milliseconds=20)
    )

with ThreadPoolExecutor(8) as pool:
    list(pool.map(answer, range(1000)))
print("counted", flush=True)
sys.stdin.read()
"""
FORKING = """
import os
from worker.metrics import make_recorder

recorder = make_recorder(enabled=True)
recorder.token_renewed(service="crm")
child = os.fork()
recorder.token_renewed(service="crm")
if child:
    os.waitpid(child, 0)
"""


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(program):
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def test_counts_of_a_killed_process_are_kept_and_added(start, tmp_path):
    clear_metrics_folder(tmp_path)
    kept, killed = start(COUNTING), start(COUNTING)
    assert [kept.stdout.readline(), killed.stdout.readline()] == [b"counted\n", b"counted\n"]

    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept.communicate(b"")

    text = render_metrics(folder=tmp_path).decode()
    assert killed.returncode == -signal.SIGKILL
    assert 'entrega_requests_total{code="ok",operation="create_lead",outcome="succeeded",service="crm"} 2000.0' in text
    assert 'entrega_request_duration_seconds_count{operation="create_lead",service="crm"} 2000.0' in text
    assert 'entrega_request_duration_seconds_bucket{le="0.05",operation="create_lead",service="crm"} 2000.0' in text


def test_files_are_named_by_host_and_pid(start, tmp_path):
    process = start(COUNTING)
    assert process.stdout.readline() == b"counted\n"

    names = sorted(each.name for each in tmp_path.glob("*.db"))

    assert [name.rpartition("-")[2] for name in names] == [f"{process.pid}.db"] * 2
    assert [name.count("_") for name in names] == [1, 1]
    assert names[0] != f"counter_{process.pid}.db"


def test_a_forked_child_counts_into_its_own_file(start, tmp_path):
    start(FORKING).communicate()

    text = render_metrics(folder=tmp_path).decode()

    assert 'entrega_token_renewals_total{service="crm"} 3.0' in text
    assert len(list(tmp_path.glob("counter_*.db"))) == 2


@pytest.mark.parametrize("torn", [b"", b"\xff\xff\xff\x7f" + bytes(70_000)])
def test_a_torn_file_does_not_take_the_scrape_away(torn, start, tmp_path):
    start(FORKING).communicate()
    (tmp_path / "counter_gone-1.db").write_bytes(torn)

    text = render_metrics(folder=tmp_path).decode()

    assert 'entrega_token_renewals_total{service="crm"} 3.0' in text
