"""Whether the server can give its socket to a group: a trial of a start opens no socket."""

from __future__ import annotations

import grp
import os


def problem(group: str) -> str:
    """Return why the server's account, which is ours, can't give a file to *group*.

    Empty for no group. Blocks where the names of groups come from elsewhere: for a thread.
    """
    if not group:
        return ""
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        return f'parameter "unix_socket_group": group "{group}" does not exist'
    # chown(2): without CAP_CHOWN, an owner may choose among the groups that it is in.
    if os.geteuid() == 0 or number in {os.getegid(), *os.getgroups()}:
        return ""
    return f'parameter "unix_socket_group": the server is no member of group "{group}"'
