"""Which Tiller this is."""

import subprocess
from importlib.metadata import version
from pathlib import Path

VERSION = version("tiller")


def git_commit(root: Path = Path(__file__).parent.parent) -> str | None:
    """The commit of a checkout, with `+` if files differ from it; None for an installed package."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
