"""Version of the server and its packages."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VERSION = version("tiller")


def version_of(*names: str) -> str | None:
    """Version of the first of these packages that is installed."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def git_commit(root: Path = Path(__file__).parent.parent) -> str | None:
    """Git commit of a checkout, with `+` for local changes; None for an installed package."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
