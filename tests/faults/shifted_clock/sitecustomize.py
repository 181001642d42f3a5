"""A wall clock that is wrong, for one process: this folder on PYTHONPATH, and the seconds in FAULTS_CLOCK_SHIFT_S.

Python imports `sitecustomize` before anything else, so every later `time.time` and `datetime.now` is shifted. Monotonic
clocks stay right, as they do when an administrator sets the clock of a machine.
"""

import ctypes
import datetime as dt
import gc
import os
import time

_SHIFT_S = float(os.environ.get("FAULTS_CLOCK_SHIFT_S", "0"))
_SHIFT = dt.timedelta(seconds=_SHIFT_S)
_time, _time_ns, _now = time.time, time.time_ns, dt.datetime.now


def _shifted_now(_cls: type, tz: dt.tzinfo | None = None) -> dt.datetime:
    return _now(tz) + _SHIFT


if _SHIFT_S:
    time.time = lambda: _time() + _SHIFT_S
    time.time_ns = lambda: _time_ns() + int(_SHIFT_S * 1e9)
    # A subclass in its place would not do: C code makes moments of the real class, and drivers look types up by it. So
    # the class itself is changed, in the dictionary behind its read-only view.
    gc.get_referents(dt.datetime.__dict__)[0]["now"] = classmethod(_shifted_now)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(dt.datetime))
