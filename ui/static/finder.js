// Find a feature by words as they are typed, and add it.
let searching = 0;

function finder() {
  const hits = el("ul", { class: "hits", id: "hits", "aria-label": "Features found" });
  const input = el("input", { type: "search", id: "find-feature", placeholder: "Add a feature: type to search…", "aria-label": "Search features to add", "data-key": "find" });
  let timer;
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => search(input.value.trim(), hits), 180); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") hits.querySelector("button:not([disabled])")?.click();
    if (event.key === "Escape" && input.value) { event.stopPropagation(); input.value = ""; hits.replaceChildren(); }
  });
  return el("div", { class: "finder" }, input, hits);
}

async function search(words, hits) {
  const mine = ++searching;
  if (!words) return hits.replaceChildren();
  try {
    const found = await api(`features?limit=8&q=${encodeURIComponent(words)}`);
    if (mine !== searching) return;
    hits.replaceChildren(...(found.data.length ? found.data.map(hit) : [el("li", { class: "none" }, `No feature matches “${words}”.`)]));
  } catch (error) { notice(error.message, true); }
}

function hit(feature) {
  const there = state.rows.some((r) => r.id === feature.id), label = feature.label || feature.id;
  return el("li", {}, el("span", { class: "name", title: label }, label), el("code", {}, feature.id),
    el("button", { type: "button", class: "icon", disabled: there, title: there ? "It is there already" : "Add", "aria-label": `Add ${label}`, onclick: () => add(feature) }, there ? "✓" : "+"));
}

function add(feature) {
  if (state.rows.length >= 32) return notice("32 features are the most that one request may steer.", true);
  remember();
  state.rows.push(rowOf(feature, 0));
  state.unfolded = true;
  draw();
  root.querySelector(`[data-key="range ${CSS.escape(feature.id)}"]`)?.focus();
}
