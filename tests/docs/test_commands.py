"""Commands in the documents: every `tiller`, `make`, `python -m` and script exists, with each flag that is shown."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup, TyperOption

from server.cli.main import COMMANDS, load_command
from tests.docs.test_links import DOCUMENTS, ROOT

SHOWN = [d for d in DOCUMENTS if "decisions" not in d.parts]
BLOCK = re.compile(r"^```(?:text|bash)\n(.*?)^```|`([^`\n]+)`", flags=re.M | re.S)
PASSED_ON = {"--enforce-eager", "--gpu-memory-utilization", "--tensor-parallel-size", "--pipeline-parallel-size"}
"""vLLM's own, which `tiller serve --engine vllm` passes on."""


def _lines(document: Path) -> Iterator[str]:
    """What a document shows as code, a line at a time, without remarks."""
    for block, inline in BLOCK.findall(document.read_text()):
        for line in (block or inline).replace("\\\n", " ").splitlines():
            yield line.partition(" # ")[0].strip()


def _problem(words: list[str]) -> str | None:
    """What is wrong with the words after `tiller`; None if they name a command and its flags."""
    name, *rest = words
    if name not in COMMANDS:
        return f"no command {name!r}"
    command = load_command(name)
    if isinstance(command, TyperGroup):
        if not rest or not re.fullmatch(r"[a-z]+", rest[0]):
            return None  # the group itself
        if rest[0] not in command.commands:
            return f"{name} has no command {rest[0]!r}"
        name, command = f"{name} {rest[0]}", command.commands[rest.pop(0)]
    if rest and re.fullmatch(r"[a-z]+", rest[0]) and all(isinstance(p, TyperOption) for p in command.params):
        return f"{name} takes no {rest[0]!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    flags = {re.split(r"[=\]]", word.strip("[]"))[0] for word in rest if word.strip("[").startswith("--")}
    unknown = flags - known - PASSED_ON
    return f"{name} has no {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize("document", SHOWN, ids=lambda d: str(d.relative_to(ROOT)))
def test_commands_of_a_document_exist(document):
    problems = []
    for line in _lines(document):
        if found := re.match(r"(?:\S*/)?tiller ((?!is|has|from)[a-z].*)", line):
            said = re.split(r"\s{2,}(?=[^-])|[;,] |\|", found[1])[0]
            if problem := _problem(said.split()):
                problems.append(f"`tiller {said}`: {problem}")
        if found := re.match(r"(?:\S*/)?python -m ((?:bench|recipes|server|tiller)[\w.]*)", line):
            module = ROOT / found[1].replace(".", "/")
            if not (module.with_suffix(".py").exists() or (module / "__main__.py").exists()):
                problems.append(f"`python -m {found[1]}`: no such module")
        if (found := re.match(r"make ([a-z-]+)", line)) and f"\n{found[1]}:" not in (ROOT / "Makefile").read_text():
            problems.append(f"`make {found[1]}`: no such target")
    assert not problems, f"{document.relative_to(ROOT)} shows what is not there: {'; '.join(problems)}"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("serve --port 8000", None),
        ("sae train --out x", None),
        ("calibrate harbor/12 --no-presets", None),
        ("serv", "no command 'serv'"),
        ("sae trian", "sae has no command 'trian'"),
        ("doctor quickly", "doctor takes no 'quickly'"),
        ("sae train --outt x", "sae train has no --outt"),
    ],
)
def test_a_wrong_command_is_found(words, problem):
    assert _problem(words.split()) == problem
