// The steering panel. Knows sliders, presets and the public API at /v1; what is drawn is drawn with
// textContent, so no label is ever read as HTML. Moving a slider asks nobody anything.
const LOW = -2, HIGH = 2, STEP = 0.05, SNAP = 0.05;
const state = { rows: [], bypass: false, preset: null, saved: "[]", presets: [], scope: "assistant", hits: null, query: "" };
const past = [], future = [];
const root = () => element.querySelector(".tiller");

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c != null));
  return node;
}

const clamp = (x) => Math.min(HIGH, Math.max(LOW, x));
const round = (x) => Math.round(x / STEP) * STEP;
const snap = (x) => (Math.abs(x) < SNAP ? 0 : x);
const percent = (x) => ((x - LOW) / (HIGH - LOW)) * 100;
const signed = (x) => (x > 0 ? "+" : x < 0 ? "−" : "") + Math.abs(x).toFixed(2);
const snapshot = () => JSON.stringify(state.rows.map(({ id, strength, mode }) => ({ id, strength, mode })));
const dirty = () => state.preset !== null && snapshot() !== state.saved;

function remember() {
  past.push(JSON.stringify(state.rows));
  if (past.length > 100) past.shift();
  future.length = 0;
}

function travel(from, to) {
  if (!from.length) return;
  to.push(JSON.stringify(state.rows));
  state.rows = JSON.parse(from.pop());
  draw();
}

async function api(path, options = {}) {
  const answer = await fetch("/v1" + path, { headers: { "Content-Type": "application/json" }, ...options });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ? body.error.message : "the server gave no reason");
  return body;
}

function spot(row) {
  if (!row.measured) return "not measured";
  if (!row.sweet_spot) return "measured: up to 1.0 stays coherent";
  const { low, high, n } = row.sweet_spot;
  return `sweet spot ${low.toFixed(2)}–${high.toFixed(2)}${n ? `, ${n} prompts` : ""}`;
}

function spoken(row) {
  const s = row.strength, place = Math.abs(s) > 1 ? "beyond the coherent range"
    : row.sweet_spot && s >= row.sweet_spot.low && s <= row.sweet_spot.high ? "inside the sweet spot" : "";
  return `dose ${s.toFixed(2)}${place ? ", " + place : ""}`;
}

function slider(row, index) {
  const range = el("input", { type: "range", min: LOW, max: HIGH, step: STEP, value: row.strength, "aria-label": row.label, "data-id": row.id });
  const number = el("input", { type: "number", min: LOW, max: HIGH, step: STEP, value: row.strength.toFixed(2), "aria-label": `${row.label}, dose`, class: "dose" });
  const fill = el("span", { class: "fill" }), note = el("small", { class: "danger", role: "status" });
  const show = () => {
    const a = percent(Math.min(0, row.strength)), b = percent(Math.max(0, row.strength));
    fill.style.left = a + "%"; fill.style.width = b - a + "%";
    range.value = row.strength; range.setAttribute("aria-valuetext", spoken(row));
    if (document.activeElement !== number) number.value = row.strength.toFixed(2);
    note.textContent = Math.abs(row.strength) > 1.0001 ? "beyond 1.0 replies often break" : "";
    summary();
  };
  const set = (value, keep = true) => { if (keep) remember(); row.strength = clamp(+round(snap(value)).toFixed(2)); show(); };
  let before = null;
  range.addEventListener("pointerdown", () => { before = JSON.stringify(state.rows); });
  range.addEventListener("pointerup", () => { if (before) { past.push(before); future.length = 0; before = null; } });
  range.addEventListener("input", () => set(+range.value, before === null));
  number.addEventListener("change", () => set(Number.isFinite(+number.value) ? +number.value : 0));
  range.addEventListener("keydown", (event) => {
    const to = { ArrowRight: row.strength + STEP, ArrowUp: row.strength + STEP, ArrowLeft: row.strength - STEP, ArrowDown: row.strength - STEP,
      PageUp: row.strength + 10 * STEP, PageDown: row.strength - 10 * STEP, Home: LOW, End: HIGH, 0: 0, Delete: 0 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const stepping = event.key.startsWith("Arrow");
    remember(); row.strength = clamp(stepping ? +round(to).toFixed(2) : snap(+round(to).toFixed(2))); show();
  });
  const band = row.sweet_spot ? el("span", { class: "band", style: `left:${percent(row.sweet_spot.low)}%;width:${percent(Math.min(HIGH, row.sweet_spot.high)) - percent(row.sweet_spot.low)}%` }) : null;
  const reset = el("button", { type: "button", title: "Reset to 0", "aria-label": `Reset ${row.label}`, onclick: () => set(0) }, "↺");
  const remove = el("button", { type: "button", title: "Remove", "aria-label": `Remove ${row.label}`, onclick: () => { remember(); state.rows.splice(index, 1); draw(); } }, "✕");
  const node = el("fieldset", { class: "row" },
    el("legend", {}, el("span", { class: "label", title: row.label }, row.label)),
    el("div", { class: "controls" }, el("span", { class: "less" }, "less"),
      el("div", { class: "track" }, el("span", { class: "hatch left" }), el("span", { class: "hatch right" }), band, fill, el("span", { class: "zero" }), range),
      el("span", { class: "more" }, "more"), number, reset, remove),
    el("div", { class: "facts" }, el("code", {}, row.id), ` · ${row.mode} · ${spot(row)} `, note));
  show();
  return node;
}

function summary() {
  const node = root() && root().querySelector(".sum");
  if (!node) return;
  const total = state.rows.reduce((sum, r) => sum + Math.abs(r.strength), 0);
  node.textContent = state.bypass ? "bypassed: both panes are the default" : `total push ${total.toFixed(2)}×${total > 1.5 ? ": several at once often break, lower each" : ""}`;
  root().querySelector(".dirty").hidden = !dirty();
}

function header() {
  const button = (text, label, act, pressed) => el("button", { type: "button", "aria-label": label, title: label, onclick: act, "aria-pressed": pressed }, text);
  return el("div", { class: "bar" }, el("h2", {}, "Steering"),
    button("↶", "Undo", () => travel(past, future)), button("↷", "Redo", () => travel(future, past)),
    button("⟲ all", "Reset all sliders", () => { remember(); state.rows.forEach((r) => { r.strength = 0; }); draw(); }),
    button("A/B", "Bypass: hear it unsteered", () => { state.bypass = !state.bypass; draw(); }, String(state.bypass)));
}

function personas() {
  const choose = el("select", { id: "preset-select", "aria-label": "Persona", onchange: (e) => pick(e.target.value) },
    el("option", { value: "" }, "no persona"), ...state.presets.map((p) => el("option", { value: p.id, selected: state.preset === p.id }, p.name)));
  const own = state.presets.find((p) => p.id === state.preset && !p.readonly);
  return el("div", { class: "persona" }, choose, el("span", { class: "dirty", title: "changed", hidden: !dirty() }, "● changed"),
    el("button", { type: "button", id: "save-as", onclick: askName }, "Save as…"),
    own ? el("button", { type: "button", id: "delete-preset", onclick: () => forget(own.id) }, "Delete") : null);
}

function cards() {
  return el("div", { class: "cards", role: "list", "aria-label": "Personas" }, ...state.presets.map((p) =>
    el("button", { type: "button", class: "card" + (p.id === state.preset ? " on" : ""), role: "listitem", "data-preset": p.id, onclick: () => pick(p.id) },
      el("b", {}, p.name), el("span", {}, p.description))));
}

function finder() {
  const list = el("ul", { class: "hits", id: "hits" });
  const input = el("input", { type: "search", id: "find-feature", placeholder: "+ add a feature: type to search", "aria-label": "Search features", value: state.query });
  let timer;
  input.addEventListener("input", () => { state.query = input.value; clearTimeout(timer); timer = setTimeout(() => search(input.value, list), 180); });
  return el("div", { class: "finder" }, input, list);
}

async function search(words, list) {
  if (!words.trim()) { list.replaceChildren(); return; }
  try {
    const found = await api(`/features?limit=8&q=${encodeURIComponent(words)}`);
    if (state.query !== words) return;
    list.replaceChildren(...(found.data.length ? found.data.map((f) => el("li", {},
      el("span", {}, el("b", {}, f.label || "unlabelled"), el("code", {}, f.id)),
      el("button", { type: "button", "aria-label": `Add ${f.label || f.id}`, onclick: () => add(f) }, "+"))) : [el("li", {}, "nothing found")]));
  } catch (error) { complain(error); }
}

function rowOf(feature, strength, mode) {
  return { id: feature.id, label: feature.label || feature.id, strength, mode, measured: feature.dose != null, sweet_spot: feature.sweet_spot };
}

function add(feature) {
  if (state.rows.some((r) => r.id === feature.id)) return;
  remember();
  state.rows.push(rowOf(feature, 0, "add"));
  state.query = "";
  draw();
  const range = [...root().querySelectorAll("input[type=range]")].pop();
  if (range) range.focus();
}

async function pick(id) {
  const preset = state.presets.find((p) => p.id === id);
  try {
    const rows = preset ? await Promise.all(preset.steering.features.map(async (f) => rowOf(await api(`/features/${f.id}`), f.strength * preset.steering.scale, f.mode))) : [];
    remember();
    Object.assign(state, { rows, preset: preset ? id : null, scope: preset ? preset.steering.scope : "assistant", bypass: false });
    state.saved = snapshot();
    draw();
    trigger("select", { preset: id, starter: preset ? preset.starter_prompts[0] || "" : "", system: preset ? preset.system_prompt || "" : "" });
  } catch (error) { complain(error); }
}

function askName() {
  const input = el("input", { type: "text", maxlength: 60, placeholder: "Name of the new persona", "aria-label": "Name of the new persona", id: "preset-name" });
  const form = el("form", { class: "naming", onsubmit: (e) => { e.preventDefault(); save(input.value); } }, input, el("button", { type: "submit", id: "preset-save" }, "Save"));
  root().querySelector(".persona").after(form);
  input.focus();
}

async function save(name) {
  const id = name.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  if (!id) { complain(new Error("a persona's name needs a letter or a digit")); return; }
  const features = state.rows.map(({ id, strength, mode }) => ({ id, strength, mode }));
  try {
    await api("/presets", { method: "POST", body: JSON.stringify({ id, name: name.trim(), steering: { features, scope: state.scope } }) });
    await load();
    Object.assign(state, { preset: id, saved: snapshot() });
    draw();
  } catch (error) { complain(error); }
}

async function forget(id) {
  try { await api(`/presets/${id}`, { method: "DELETE" }); state.preset = null; await load(); draw(); } catch (error) { complain(error); }
}

function complain(error) {
  const node = root().querySelector(".complaint");
  node.textContent = error.message;
}

function draw() {
  if (!root()) return;
  root().classList.toggle("bypassed", state.bypass);
  const body = state.rows.length ? el("div", { class: "rows" }, ...state.rows.map(slider)) : cards();
  root().replaceChildren(header(), personas(), el("p", { class: "complaint", role: "alert" }), body, finder(), el("p", { class: "sum", role: "status" }));
  summary();
}

async function load(tries = 40) {
  try { state.presets = (await api("/presets")).data; } catch (error) {
    if (tries) { await new Promise((r) => setTimeout(r, 500)); return load(tries - 1); }
    complain(error);
  }
}

window.tiller = { value: () => ({ rows: state.rows.map(({ id, strength, mode }) => ({ id, strength, mode })), bypass: state.bypass, scope: state.scope }), pick, state };
if (!window.tillerKeys) {
  window.tillerKeys = true;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("textarea, input[type=text], input[type=search], input[type=number]");
    if (event.key === "Escape") document.querySelector("#stop")?.click();
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !typing) {
      event.preventDefault();
      event.shiftKey ? travel(future, past) : travel(past, future);
    }
  });
}
draw();
load().then(draw);
