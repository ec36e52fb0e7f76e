"""SAE files on a model hub: local paths, or paths within a repository.

`org/name/path/inside` names a folder or a file of a repository; only that is downloaded.
"""

import re
from pathlib import Path, PurePosixPath

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from steering.errors import BadBundle

WEIGHTS = {".safetensors", ".npz", ".pt", ".pth"}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[^\s]+)?")


def resolve_sae_files(place: str, *, revision: str | None = None) -> Path:
    """Local folder or file, downloaded first if `place` is on the hub.

    Raises BadBundle that names the alternatives.
    """
    if Path(place).exists():
        return Path(place)
    if not HUB_NAME.fullmatch(place) or place.startswith((".", "/")):
        raise BadBundle(f"there is no file or folder {place!r}, and it is not a hub id such as org/name/folder")

    parts = place.split("/")
    repo, inside = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        wanted = _wanted(HfApi().list_repo_files(repo, revision=revision), repo, inside)
        folder = snapshot_download(repo, revision=revision, allow_patterns=wanted)
    except (HfHubHTTPError, httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError, OSError) as error:
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadBundle(
            f"cannot fetch {repo!r} from the hub, and there is no local folder of that name: {message}"
        ) from error
    return Path(folder) / inside


def _wanted(files: list[str], repo: str, inside: str) -> list[str]:
    named = [f for f in files if not inside or f == inside or f.startswith(f"{inside}/")]
    weights = [f for f in named if PurePosixPath(f).suffix in WEIGHTS]
    if not weights:
        there = ", ".join(f for f in files if PurePosixPath(f).suffix in WEIGHTS)
        raise BadBundle(f"{repo!r} has no weights at {inside or '/'!r}; it has {_short(there) or 'none at all'}")
    if len({str(PurePosixPath(f).parent) for f in weights}) > 1 or (len(weights) > 1 and not inside):
        raise BadBundle(
            f"{repo!r} holds {len(weights)} SAEs at {inside or '/'!r}; name one: {_short(', '.join(weights))}"
        )
    beside = PurePosixPath(weights[0]).parent
    settings = [f for f in files if f.endswith(".json") and PurePosixPath(f).parent in (beside, beside.parent)]
    return [*named, *settings]


def _short(names: str, most: int = 300) -> str:
    return names if len(names) <= most else f"{names[:most]} …"
