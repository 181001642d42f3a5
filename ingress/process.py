"""One part of `entrega up` in a process of its own: `python -m ingress.process worker worker1`, `beat`, `web`.

A further one, `commands`, serves the command line. The others are the same processes as `celery -A worker worker`,
`celery -A worker beat` and `python -m ingress.web`, ready sooner. Celery's command line loads each of its commands with
all that belongs to it, Flower and a shell too, which is a quarter of a worker's start; here the wanted one begins at
once.
"""

import argparse
import gc
import logging
import sys
from collections.abc import Callable, Mapping


def main(arguments: list[str] | None = None) -> int:
    """Run a part until SIGTERM or Ctrl-C; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ingress.process", description="One part of `entrega up`.")
    parser.add_argument("part", choices=_PARTS)
    parser.add_argument("name", help="under which it is known here; no two parts have the same")
    asked = parser.parse_args(arguments)
    # What a start makes stays to the end: looking through it for garbage would take a tenth of the time and find none.
    gc.disable()
    return _PARTS[asked.part](asked.name)


def _worker(name: str) -> int:
    from celery.utils.nodenames import gethostname, nodename

    from worker import app
    from worker.life import begin

    begin(app)
    worker = app.Worker(
        hostname=nodename(name, gethostname()), loglevel=logging.INFO, without_gossip=True, without_mingle=True
    )
    _collect_again()
    worker.start()
    return worker.exitcode or 0


def _beat(_name: str) -> int:
    from worker import app
    from worker.life import begin

    begin(app)
    beat = app.Beat(
        loglevel=logging.INFO
    )  # no pid file: `entrega up` runs once in a folder, and a stale one would stop it
    _collect_again()
    beat.run()
    return 0


def _web(_name: str) -> int:
    from ingress.web import web_server

    server = web_server()
    _collect_again()
    server.run()
    return 0


def _commands(_name: str) -> int:
    from config.settings import load_settings
    from ingress.command_server import main as serve

    return serve(load_settings().entrega_data)


def _collect_again() -> None:
    gc.freeze()
    gc.enable()


_PARTS: Mapping[str, Callable[[str], int]] = {"worker": _worker, "beat": _beat, "web": _web, "commands": _commands}

if __name__ == "__main__":
    sys.exit(main())
