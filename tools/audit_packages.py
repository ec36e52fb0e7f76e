"""Audit the installed packages for known vulnerabilities and licences: `make audit`.

Runs pip-audit and pip-licenses. Exits with 1 for a vulnerability, and with 2 if a package could not be checked:
pip-audit reports such a package as skipped and exits with 0.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

TOOLS = Path(sys.executable).parent
SERVICES = ("pypi", "osv")
"""Of vulnerabilities; the second is asked where the first is silent."""


def main(lock: str, python: str, torch: str) -> int:
    """Print both; `lock` names the packages, `python` is where they are installed, `torch` is pinned elsewhere."""
    print(*licences(python), "", sep="\n")  # noqa: T201 - a command
    for service in SERVICES:
        found = audited(lock, torch, service)
        told = [d for d in found if "skip_reason" not in d]
        if told:
            return verdict(told, len(found), service)
    silent = " and ".join(SERVICES)
    print(f"No package could be audited: neither of {silent} answers from here. This is no clean result.")  # noqa: T201
    return 2


def audited(lock: str, torch: str, service: str) -> list[dict]:
    """What one service says of each package; nothing if it can't be reached."""
    text = f"{Path(lock).read_text()}torch=={torch}\n"
    words = ["--no-deps", "--disable-pip", "-s", service, "-f", "json", "--progress-spinner", "off", "--timeout", "10"]
    asked = [str(TOOLS / "pip-audit"), "-r", "/dev/stdin", *words]
    try:
        done = subprocess.run(asked, input=text, capture_output=True, text=True, timeout=600)
        return json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, subprocess.TimeoutExpired):
        return []


def verdict(told: list[dict], of: int, service: str) -> int:
    """Print what is vulnerable."""
    print(f"{len(told)} of {of} packages audited by {service}")  # noqa: T201
    bad = [(d["name"], d["version"], v) for d in told for v in d["vulns"]]
    for name, version, v in bad:
        print(f"{name} {version}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'no version'}")  # noqa: T201
    return 1 if bad else 0 if len(told) == of else 2


def licences(python: str) -> list[str]:
    """How many packages have which licence."""
    words = ["--python", python, "--format", "json", "--from", "mixed"]
    done = subprocess.run([str(TOOLS / "pip-licenses"), *words], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    counts = Counter(row["License"] for row in rows)
    names = {kind: [row["Name"] for row in rows if row["License"] == kind] for kind in counts}
    return [f"{n:>4}  {kind[:60]:<60}  {', '.join(names[kind][:4])}" for kind, n in counts.most_common()]


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
