"""What git knows of a repository."""

import subprocess
from pathlib import Path


def git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What git prints when it is given those arguments in a folder.

    Raises:
        ValueError: git failed, with its reason.
    """
    done = subprocess.run(["git", "-C", str(folder), *arguments], input=given, capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().replace("\n", " ")
        raise ValueError(f"{folder}: git {arguments[0]} failed, expected a git repository: {reason}")
    return done.stdout
