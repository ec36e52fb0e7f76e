"""Load time of a large feature map: `python -m bench.map_page` opens 65,536 features on a real server in Chromium.

A bundle with a small random model and a random SAE, with features named in groups of similar direction; the map by PCA,
as `tiller map` computes it. Each round is a new browser context. Times are from the click on the tab, by the page's own
clock. Needs playwright and Chromium, as the page's tests do.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, Page, sync_playwright

from bench.lab import Estimate, Ratio, show
from bench.live_server import serving
from server.jobs.tasks.map import map_bundle
from server.settings import Settings
from steering.sae import SAE
from tests.support import small_bundle

FEATURES, GROUPS = 65_536, 400
GOAL = 2.0
"""Seconds until every dot has a name."""
FRAMES = 60
WATCH = """(n) => new Promise(async (done) => {
  const { mapData } = await import('./page/map/map_data.js');
  const told = { longest: 0 }, tab = document.querySelector('#tab-map');
  new PerformanceObserver((list) => { for (const task of list.getEntries()) told.longest = Math.max(told.longest, task.duration); }).observe({ type: 'longtask' });
  let begun;
  tab.addEventListener('click', () => { begun = performance.now(); }, { capture: true });
  tab.click();
  const look = () => {
    const now = performance.now() - begun;
    if (document.querySelector(`#section-map .canvas[data-points='${n}']`)) told.drawn ??= now;
    if (mapData.known) told.first ??= now;
    if (mapData.n === n && mapData.known === n && told.drawn) { told.all = now; done(told); } else requestAnimationFrame(look);
  };
  look();
})"""
MOVE = """async ({ frames, zooms }) => {
  const canvas = document.querySelector('#section-map canvas.overlay'), box = canvas.getBoundingClientRect(), frame = requestAnimationFrame, times = [], drawings = [];
  const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true, cancelable: true, pointerId: 1 };
  canvas.setPointerCapture = () => {};
  window.requestAnimationFrame = (draw) => frame((at) => { const begun = performance.now(); draw(at); drawings.push(performance.now() - begun); });
  if (!zooms) canvas.dispatchEvent(new PointerEvent('pointerdown', at));
  let before = await new Promise(frame);
  for (let k = 0; k < frames; k++) {
    if (zooms) canvas.dispatchEvent(new WheelEvent('wheel', { ...at, deltaY: k < frames / 2 ? -40 : 40 }));
    else canvas.dispatchEvent(new PointerEvent('pointermove', { ...at, clientX: at.clientX + 80 * Math.sin(k / 5), clientY: at.clientY + 50 * Math.cos(k / 7) }));
    const now = await new Promise(frame);
    times.push(now - before);
    before = now;
  }
  if (!zooms) canvas.dispatchEvent(new PointerEvent('pointerup', at));
  window.requestAnimationFrame = frame;
  return { frames: times.sort((a, b) => a - b), drawings: drawings.sort((a, b) => a - b) };
}"""
SPOT = """async (i) => {
  const { mapData } = await import('./page/map/map_data.js'), points = mapData.points, box = document.querySelector('#section-map canvas.overlay').getBoundingClientRect();
  let [left, right, bottom, top] = [9, -9, 9, -9];
  for (let k = 0; k < points.length; k += 2) { left = Math.min(left, points[k]); right = Math.max(right, points[k]); bottom = Math.min(bottom, points[k + 1]); top = Math.max(top, points[k + 1]); }
  const scale = Math.min((box.width - 48) / (right - left), (box.height - 48) / (top - bottom));
  return [box.left + box.width / 2 + (points[2 * i] - (left + right) / 2) * scale, box.top + box.height / 2 - (points[2 * i + 1] - (bottom + top) / 2) * scale];
}"""


def write_bundle(folder: Path, features: int = FEATURES) -> Path:
    """Write a bundle of that many features, with its map."""
    tokenizer = small_bundle.tokenizer()
    tokenizer.save_pretrained(folder / "model")
    small_bundle.model(len(tokenizer)).save_pretrained(folder / "model")
    dice = torch.Generator().manual_seed(0)
    middles = torch.randn(GROUPS, small_bundle.WIDTH, generator=dice)
    member = torch.randint(GROUPS, (features,), generator=dice)
    noise = torch.randn(features, small_bundle.WIDTH, generator=dice)
    rows = torch.nn.functional.normalize(middles[member] + 0.7 * noise, dim=1)
    empty, threshold = torch.zeros(features), torch.full((features,), 0.1)
    SAE(rows.T.contiguous(), empty, rows, torch.zeros(small_bundle.WIDTH), threshold).save(
        folder / "revisions/r1", hook="layers.1", model="large"
    )
    density = torch.rand(features, generator=dice).mul(5).neg().exp().tolist()
    lines = (json.dumps(_feature(i, g, d)) for i, (g, d) in enumerate(zip(member.tolist(), density, strict=True)))
    (folder / "revisions/r1/features.jsonl").write_text("\n".join(lines))
    info = {"name": "large", "model": "model", "hook": "layers.1", "revision": "r1", "typical_norm": 8.0}
    (folder / "bundle.json").write_text(json.dumps(info))
    map_bundle(Settings(bundle=folder), "pca")
    return folder


def _feature(i: int, group: int, density: float) -> dict[str, Any]:
    words = [_word(group), _word(group + GROUPS), _word(i + 2 * GROUPS)]
    label = f"on “{words[0]}” and “{words[1]}”, says “{words[2]}”"
    known = {"label": label, "label_source": "auto", "words": words}
    return {"index": i, **known, "density": density, "typical_max": 3.0, "max_activation": 4 + group / GROUPS}


def _word(number: int) -> str:
    """A made-up word, another one for each number."""
    syllables = ["ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu"]
    return "".join(syllables[int(digit)] for digit in f"{number:03}")


def opened(browser: Browser, address: str) -> Iterator[dict[str, float]]:
    """Return the times of each new visit, in milliseconds."""
    while True:
        context = browser.new_context(viewport={"width": 1360, "height": 900})
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#state[data-state=ready]")
        found = page.evaluate(WATCH, FEATURES)
        found["hover"] = _hover(page)
        for name, zooms in (("zoom", True), ("pan", False)):
            seen = page.evaluate(MOVE, {"frames": FRAMES, "zooms": zooms})
            if len(seen["drawings"]) < FRAMES - 2:
                raise SystemExit(f"{name}: only {len(seen['drawings'])} of {FRAMES} frames were drawn")
            found |= {name: statistics.median(seen["drawings"]), f"{name}_worst": seen["frames"][int(0.95 * FRAMES)]}
        context.close()
        yield found


def _hover(page: Page) -> float:
    """Milliseconds until the last feature's name is shown under the pointer."""
    x, y = page.evaluate(SPOT, FEATURES - 1)
    page.evaluate(
        """() => { const tip = document.querySelector('#section-map .tip'), over = document.querySelector('#section-map canvas.overlay');
        over.addEventListener('pointermove', () => { const at = performance.now(); window.named = new Promise((done) => { const look = () => (!tip.hidden && tip.textContent.length > 1 ? done(performance.now() - at) : requestAnimationFrame(look)); look(); }); }, { once: true, capture: true }); }"""
    )
    page.mouse.move(x, y)
    return float(page.evaluate("window.named"))


def measured(rounds: int) -> list[Ratio]:
    """Rows of the table; the first visit is a row of its own, since the server reads the map then."""
    chromium = shutil.which("chromium")
    if not chromium:
        raise SystemExit("Chromium is missing; install it with: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder))
        with serving(bundle) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            visits = opened(browser, address)
            first, *others = [next(visits) for _ in range(rounds + 1)]
            browser.close()
    of = lambda name, scale=1000.0: Estimate.median_of([v[name] for v in others], 1 / scale)  # noqa: E731
    return [
        Ratio("first visit: all names there, s", Estimate.median_of([first["all"]], 1e-3), GOAL, at_most=True),
        Ratio("drawn, s", of("drawn"), None),
        Ratio("first names there, s", of("first"), None),
        Ratio("all names there, s", of("all"), GOAL, at_most=True),
        Ratio("longest task over 50 ms, ms (0: none)", of("longest", 1), None),
        Ratio("name under the pointer, ms", of("hover", 1), None),
        Ratio("zoom: a drawing, ms", of("zoom", 1), None),
        Ratio("zoom: 95 % of frames within, ms", of("zoom_worst", 1), None),
        Ratio("pan: a drawing, ms", of("pan", 1), None),
        Ratio("pan: 95 % of frames within, ms", of("pan_worst", 1), None),
    ]


def main() -> None:
    """Print the table; `--json` writes it as well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    show(f"{FEATURES:,} features on the map, median of {args.rounds}", measured(args.rounds), args.json)


if __name__ == "__main__":
    main()
