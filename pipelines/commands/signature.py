"""SSH signatures of statements of provenance: made and checked by OpenSSH's own `ssh-keygen`.

A statement has the digests of all files of an export, so one signature covers all of them. The key
stays with the signer, in a file, an agent or a token; this program never sees it:

    ssh-keygen -Y sign -n conceptprune -f KEY FOLDER/provenance.json
"""

import re
import shutil
import subprocess
from pathlib import Path

from conceptprune.checkpoints.statement import SIGNATURE_FILE, STATEMENT_FILE
from conceptprune.errors import UserError

NAMESPACE = "conceptprune"
"""The purpose of the signature: one made by the same key for another purpose does not count."""
SECONDS = 30.0

_SIGNER = re.compile(r"[^\s!,-][^\s,]*")
"""One of the names or patterns, such as *@example.org, of a line of allowed signers."""


def check_tool(signers: Path) -> None:
    """Check that signatures can be verified with a file of allowed signers.

    Raises:
        UserError: there is no such file, or no `ssh-keygen` on this machine.
    """
    if not signers.is_file():
        raise UserError(
            f"--signers {signers}: no such file; see ALLOWED SIGNERS in `ssh-keygen`(1)"
        )
    if shutil.which("ssh-keygen") is None:
        raise UserError("--signers: needs OpenSSH's ssh-keygen, which this machine does not have")


def signature_problem(folder: Path, statement: bytes, signers: Path) -> str:
    """What is wrong with a statement's signature; None if an allowed signer made it.

    Args:
        folder: folder with the signature, `provenance.json.sig`.
        statement: the exact bytes that were read as the statement.
        signers: OpenSSH's file of allowed signers.
    """
    signature = folder / SIGNATURE_FILE
    if signature.is_symlink() or not signature.is_file():
        return f"{SIGNATURE_FILE}: is missing, so nobody vouches for {STATEMENT_FILE}"
    told = _keygen(["find-principals", "-s", str(signature), "-f", str(signers)], b"")
    line = next(iter(told.stdout.decode(errors="replace").splitlines()), "")
    # A pattern stands for everybody whom it fits, and so for itself.
    named = [each for each in line.split(",") if _SIGNER.fullmatch(each)]
    if told.returncode or not named:
        return f"{SIGNATURE_FILE}: is of no allowed signer"
    signer = named[0]
    names = ["-n", NAMESPACE, "-I", signer]
    files = ["-f", str(signers), "-s", str(signature)]
    if _keygen(["verify", *names, *files], statement).returncode:
        return f"{SIGNATURE_FILE}: is not {signer}'s signature of {STATEMENT_FILE}"
    return ""


def _keygen(arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh-keygen", "-Y", *arguments]
    try:
        return subprocess.run(
            command, input=data, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"--signers: ssh-keygen did not end within {SECONDS:g} s") from error
