"""What listens on this machine, and what SECURITY.md says of it."""

import re
from pathlib import Path

import psutil

from tests.support.forking.start import real

SECURITY = Path(__file__).parents[2] / "SECURITY.md"


def listening(*processes: psutil.Process) -> set[tuple[str, str]]:
    """Name and address of whatever listens, of processes and all that they have started."""
    found = set()
    for root in processes:
        for process in (root, *root.children(recursive=True)):
            try:
                process = real(process)
                connections = process.net_connections("inet")
                name = process.name()
            except psutil.NoSuchProcess:
                continue
            found |= {
                (name, one.laddr.ip.removeprefix("::ffff:"))
                for one in connections
                if one.status == psutil.CONN_LISTEN
            }
    return found


def documented(started_by: str) -> set[str]:
    """Addresses on which SECURITY.md says that something listens which is started by this."""
    table = SECURITY.read_text("utf-8").partition("## What listens where")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    found = {where.strip() for who, _, where in rows if f"`{started_by}`" in who}
    return {address for text in found for address in re.findall(r"\d+\.\d+\.\d+\.\d+", text)}
