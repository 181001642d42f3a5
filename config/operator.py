"""Which account runs a command, for the audit trail."""

import os
import pwd

_LONGEST = 64


def operator_name() -> str:
    """Return the name of the account that runs this process, and the account that used sudo to become root.

    The name comes from the system: anyone can set LOGNAME and USER. Containers often run under a number without a name;
    that is no error.

    Shape: "ana", "root (sudo: ana)", "user 10001"
    """
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"user {number}"
    # Only root's own processes can set it, and root may write what it likes anyway.
    before = os.environ.get("SUDO_USER") if number == 0 else None
    return (f"{name} (sudo: {before})" if before else name)[:_LONGEST]
