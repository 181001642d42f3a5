"""Removes our variables from the environment: `entrega demo` neither fails on them nor reaches what they name."""

import os

from config.settings import Settings

# What the libraries under us read.
_OTHERS = ("CELERY", "FLOWER_", "PG", "PROMETHEUS_", "SENTRY_")


def set_variables() -> list[str]:
    """Return the names of the variables of this process that Entrega, or a library under it, would read."""
    ours = {name.upper() for name in Settings.model_fields}
    return [name for name in os.environ if name.upper() in ours or name.startswith(_OTHERS)]


def forget_variables() -> None:
    """Take those variables out of the environment of this process and of those that it starts."""
    for name in set_variables():
        del os.environ[name]
