// Two ways to a slider from the panel: search for a feature, or say what replies should be like.
import { api, model } from "../lib/api.js";
import { signed } from "./dose.js";
import { button, el, icon, off } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { beyond } from "../lib/roles.js";
import { add, addRows, has, rowOf } from "./slider_state.js";
import { featurePath } from "../lib/api.js";

// Both are drawn once: what somebody types in them outlives that the panel is drawn anew, as when a persona comes a moment later.
let searching = 0,
  found = null,
  finding = null,
  wishing = null;

export function finder() {
  finding ??= find();
  showHits();
  return finding;
}

function find() {
  const hits = el("ul", { class: "hits", id: "hits", "aria-label": "Features found" });
  const input = el("input", {
    type: "search",
    id: "find-feature",
    placeholder: "Add a feature: type to search…",
    "aria-label": "Search features to add",
    "data-key": "find",
  });
  let timer;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => search(input.value.trim()), 180);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") hits.querySelector("button:not([disabled])")?.click();
    if (event.key === "Escape" && input.value) {
      event.stopPropagation();
      clearTimeout(timer);
      leave();
    }
  });
  return el("div", { class: "finder" }, input, hits);
}

async function search(words) {
  const mine = ++searching;
  try {
    const told = words ? await api(`features?limit=8&q=${encodeURIComponent(words)}`) : null;
    if (mine !== searching) return;
    found = told && { words, features: told.data };
    showHits();
  } catch (error) {
    notice(error.message, true);
  }
}

function showHits() {
  const none = () => el("li", { class: "none" }, `No feature matches “${found.words}”.`);
  finding
    .querySelector("#hits")
    .replaceChildren(...(!found ? [] : found.features.length ? found.features.map(hit) : [none()]));
}

// Nothing is looked for any more.
function leave() {
  searching += 1;
  found = null;
  finding.querySelector("input").value = "";
  showHits();
}

function hit(feature) {
  const there = has(feature.id),
    label = feature.label || feature.id;
  return el(
    "li",
    {},
    el("span", { class: "name", title: label }, label),
    el("code", {}, feature.id),
    icon(there ? "✓" : "+", `Add ${label}`, () => addOne(feature), {
      disabled: there,
      title: there ? "It is there already" : "Add",
    }),
  );
}

function addOne(feature, strength = 0) {
  try {
    add(feature, strength);
    leave();
    document.querySelector(`[data-key="range ${CSS.escape(feature.id)}"]`)?.focus();
  } catch (error) {
    notice(error.message, true);
  }
}

export function wisher() {
  wishing ??= ask();
  off(wishing.querySelector("#suggest"), beyond("POST /v1/steering/suggest"));
  return wishing;
}

function ask() {
  const input = el("input", {
    type: "text",
    id: "wish",
    maxlength: 300,
    placeholder: "Make it more… poetic, formal, about ships",
    "aria-label": "Say what replies should be like",
    "data-key": "wish",
  });
  const go = button("Suggest", null, { id: "suggest", type: "submit" });
  const form = el("form", { class: "wisher" }, input, go);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = input.value.trim();
    if (!words) return;
    go.disabled = true;
    notice("Trying features on a few prompts…");
    if ((await wish(words)) && input.value.trim() === words) input.value = "";
    go.disabled = false;
  });
  return form;
}

// Whether sliders came of it.
async function wish(words) {
  try {
    const found = await api("steering/suggest", "POST", { model: await model(), wish: words });
    if (!found.features.length)
      return notice(`No feature was found that makes replies “${words}”.`, true);
    const features = await Promise.all(found.features.map((f) => api(featurePath(f.id))));
    addRows(features.map((f, i) => rowOf(f, found.features[i].strength)));
    const said = found.features
      .map((f) => `${signed(f.strength)} ${f.label || f.id}: ${f.why}`)
      .join(" · ");
    notice(
      `Added ${said}${promptIsBetter(found) ? " A system prompt with that wish did more." : ""}`,
    );
    return true;
  } catch (error) {
    notice(error.message, true);
  }
}

const promptIsBetter = ({ gain, prompt_gain }) =>
  gain != null && prompt_gain != null && prompt_gain > gain;
