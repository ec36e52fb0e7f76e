// Add feature: the panel's feature search and its suggestions for a wish.
import { api, featurePath, modelId } from "../lib/api.js";
import { button, disableWhen, el, icon } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { missingRoleText } from "../lib/roles.js";
import { formatSigned } from "./dose.js";
import { choosePersona } from "./personas.js";
import { addFeature, addRows, hasRow, presetOf, rowFromFeature, state } from "./slider_state.js";

// Both forms are created once, so that typed text survives a redraw of the panel.
let lastSearch = 0,
  hits = null,
  searchForm = null,
  suggestForm = null;

export function featureSearch() {
  searchForm ??= createSearch();
  showHits();
  return searchForm;
}

function createSearch() {
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
    timer = setTimeout(() => searchFeatures(input.value.trim()), 180);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") hits.querySelector("button:not([disabled])")?.click();
    if (event.key === "Escape" && input.value) {
      event.stopPropagation();
      clearTimeout(timer);
      clearSearch();
    }
  });
  return el("div", { class: "feature-search" }, input, hits);
}

async function searchFeatures(query) {
  const thisSearch = ++lastSearch;
  try {
    const page = query ? await api(`features?limit=8&q=${encodeURIComponent(query)}`) : null;
    if (thisSearch !== lastSearch) return;
    hits = page && { query, features: page.data };
    showHits();
  } catch (error) {
    notice(error.message, true);
  }
}

function showHits() {
  const none = () => el("li", { class: "none" }, `No feature matches “${hits.query}”.`);
  searchForm
    .querySelector("#hits")
    .replaceChildren(
      ...(!hits ? [] : hits.features.length ? hits.features.map(hitNode) : [none()]),
    );
}

// Clears the search and ignores pending results.
function clearSearch() {
  lastSearch += 1;
  hits = null;
  searchForm.querySelector("input").value = "";
  showHits();
}

function hitNode(feature) {
  const there = hasRow(feature.id),
    label = feature.label || feature.id;
  return el(
    "li",
    {},
    el("span", { class: "name", title: label }, label),
    feature.calibration?.works ? el("span", { class: "muted" }, "slider-ready") : null,
    el("code", {}, feature.id),
    icon(there ? "✓" : "+", `Add ${label}`, () => addHit(feature), {
      disabled: there,
      title: there ? "Already added" : "Add",
    }),
  );
}

function addHit(feature, strength = 0) {
  try {
    addFeature(feature, strength);
    clearSearch();
    document.querySelector(`[data-key="range ${CSS.escape(feature.id)}"]`)?.focus();
  } catch (error) {
    notice(error.message, true);
  }
}

export function suggestByWish() {
  suggestForm ??= createSuggestForm();
  disableWhen(suggestForm.querySelector("#suggest"), missingRoleText("POST /v1/steering/suggest"));
  return suggestForm;
}

function createSuggestForm() {
  const input = el("input", {
    type: "text",
    id: "wish",
    maxlength: 300,
    placeholder: "Make it more… poetic, formal, about ships",
    "aria-label": "Describe the replies you want",
    "data-key": "wish",
  });
  const go = button("Suggest", null, { id: "suggest", type: "submit" });
  const form = el("form", { class: "suggest-form" }, input, go);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const query = input.value.trim();
    if (!query) return;
    go.disabled = true;
    notice("Comparing with the labels…");
    if ((await suggestFeatures(query)) && input.value.trim() === query) input.value = "";
    go.disabled = false;
  });
  return form;
}

// Resolves to true if sliders were added.
async function suggestFeatures(query) {
  try {
    const suggestion = await api("steering/suggest", "POST", {
      model: await modelId(),
      wish: query,
    });
    const persona = presetOf(suggestion.preset);
    if (persona && !state.rows.length) {
      await choosePersona(persona.id);
      notice(`The persona ${persona.name} fits “${query}”.`);
      return true;
    }
    if (!suggestion.features.length)
      return notice(`No slider and no persona fits “${query}”. Try another word, or search.`, true);
    const features = await Promise.all(suggestion.features.map((f) => api(featurePath(f.id))));
    addRows(features.map((f, i) => rowFromFeature(f, suggestion.features[i].strength)));
    const summary = suggestion.features
      .map((f) => `${formatSigned(f.strength)} ${f.label || f.id}`)
      .join(" · ");
    notice(`Added ${summary}.${persona ? ` The persona ${persona.name} fits as well.` : ""}`);
    return true;
  } catch (error) {
    notice(error.message, true);
  }
}
