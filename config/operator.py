"""Who sits at the keyboard, for the audit trail."""

import getpass

_LONGEST = 64
_NOBODY = "operator"


def operator_name() -> str:
    """Return the name of the user who runs this process, or "operator" where the machine knows none.

    Containers often run under a number without a name; an action must not fail for that.
    """
    try:
        return getpass.getuser().strip()[:_LONGEST] or _NOBODY
    except (OSError, KeyError, ImportError):
        return _NOBODY
