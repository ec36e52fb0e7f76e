"""Fuzzing of `#s=` links: the page's decoder returns a value of the expected shape, or refuses the rest at once."""

import base64
import json
import re
import shutil
import subprocess

import pytest

from tests.fuzz.mutations import as_json, broken, changed, seeds
from tests.support.paths import ROOT

SOURCE = (ROOT / "ui/static/panel/share_link.js").read_text()
VALID = {
    "v": 1,
    "model": "small",
    "preset": "bridge",
    "steering": {"features": [{"id": "small/1", "strength": 0.5}], "scale": 1},
    "seed": 7,
    "sampling": {"temperature": 0.5, "top_p": 1, "repetition_penalty": 1, "max_tokens": 100},
    "system": "Be calm. ü",
}
PROGRAM = """
const lines = JSON.parse(require("fs").readFileSync(0, "utf8")), told = [];
for (const text of lines) {
  const began = Date.now();
  let given = null, kind = null;
  try {
    given = text.length > MAX_LINK ? null : decode(text);
    if (given?.v !== VERSION || !Array.isArray(given.steering?.features)) throw new Error();
  } catch (error) { kind = error.constructor.name; given = null; }
  told.push({ taken: given !== null, kind, ms: Date.now() - began, polluted: ({}).x !== undefined });
}
console.log(JSON.stringify(told));
"""


def decoder():
    constants = re.search(r"^const VERSION = .*?;$", SOURCE, flags=re.M | re.S)
    function = re.search(r"^function decode.*?^}", SOURCE, flags=re.M | re.S)
    check = "shared?.v !== VERSION || !Array.isArray(shared.steering?.features)"
    assert constants and function and check in SOURCE, "the decoder has changed; so must this"
    return f"{constants[0]}\n{function[0]}\n{PROGRAM}"


def packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.skipif(not shutil.which("node"), reason="the page's decoder is JavaScript: node is missing")
def test_a_link_is_taken_or_refused():
    links = [packed(json.dumps(VALID).encode())]
    for n, draw in seeds("links"):
        data = as_json(changed(VALID, draw)).encode("utf-8", "surrogatepass")
        links += [packed(data), packed(broken(data, draw)), broken(links[0].encode(), draw).decode("latin-1")]
        links.append("A" * (100_001 * (n == 0)))
    done = subprocess.run(
        ["node", "-e", decoder()], input=json.dumps(links), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told[0]["taken"]
    assert len(told) == len(links)
    refusals = {"Error", "SyntaxError", "TypeError", "DOMException"}
    assert {t["kind"] for t in told if not t["taken"]} <= refusals
    assert max(t["ms"] for t in told) < 1000
    assert not any(t["polluted"] for t in told)
