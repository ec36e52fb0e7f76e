// The steering panel: its state, undo, and drawing. What one row, a persona or the search do is other files'.
const BASE = new URL("v1", location.origin + location.pathname).href;
const root = element.querySelector(".tiller");
const state = { rows: [], preset: "", bypass: false, scale: 1, scope: "assistant", saved: "", presets: [], sent: null, unfolded: null };
const past = [], future = [];

const fingerprint = () => JSON.stringify([state.scale, state.scope, ...state.rows.map(({ id, strength, mode }) => [id, strength, mode])]);
const snapshot = () => { const { rows, preset, scale, scope, saved } = state; return JSON.stringify({ rows, preset, scale, scope, saved }); };
const steering = () => ({ features: state.rows.map(({ id, strength, mode }) => ({ id, strength, mode })), unit: "dose", scale: state.scale, scope: state.scope });

async function api(path, method = "GET", content) {
  const answer = await fetch(`${BASE}/${path}`, { method, headers: { "Content-Type": "application/json" }, body: content && JSON.stringify(content) })
    .catch(() => { throw new Error("The server cannot be reached; is it still running?"); });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(told.error?.message || "The server gave no reason."), { status: answer.status });
  return told;
}

function remember() {
  past.push(snapshot());
  past.splice(0, past.length - 200);
  future.length = 0;
}

function travel(from, to) {
  if (!from.length) return;
  to.push(snapshot());
  Object.assign(state, JSON.parse(from.pop()));
  draw();
}
const undo = () => travel(past, future), redo = () => travel(future, past);

function removeRow(index) {
  remember();
  state.rows.splice(index, 1);
  draw();
}

function resetAll() {
  remember();
  for (const row of state.rows) row.strength = 0;
  draw();
}

function halve() {
  remember();
  state.scale = tidy(state.scale / 2);
  draw();
}

function bar() {
  const icon = (text, label, id, act) => el("button", { type: "button", class: "icon", title: label, "aria-label": label, id, "data-key": id, onclick: act }, text);
  return el("div", { class: "bar" }, el("h2", {}, "Steering"),
    icon("↶", "Undo (Ctrl+Z)", "undo", undo), icon("↷", "Redo (Ctrl+Shift+Z)", "redo", redo), icon("⟲", "Reset all sliders to 0", "reset-all", resetAll),
    el("button", { type: "button", id: "bypass", "data-key": "bypass", title: "Bypass the sliders (B): the next reply is not steered", "aria-pressed": String(state.bypass), onclick: bypass }, "Bypass"),
    icon("</>", "Show as code", "code", showCode));
}

function bypass() {
  state.bypass = !state.bypass;
  draw();
}

function draw() {
  const key = document.activeElement?.dataset?.key;
  root.classList.toggle("bypassed", state.bypass);
  const empty = el("p", { class: "empty" }, "No sliders yet. Choose a persona, or search for a feature below.");
  root.querySelector(".body").replaceChildren(bar(), personaBar(), el("div", { class: "notice", role: "status" }),
    ...(state.rows.length ? [masterNode(), rowsNode()] : [empty]), finder(), el("p", { class: "sum", role: "status" }));
  drawCards();
  changed();
  if (key) root.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

// What follows from the sliders' values: sums, marks, what can be undone.
function changed() {
  const total = push(state), most = Math.max(SAFE, tried());
  const words = state.bypass ? "Bypassed: the next reply is not steered." : `Total push ${total.toFixed(2)}${total > most + 0.005 ? ` ⚠ above ${most.toFixed(2)} often breaks` : ""}`;
  const stale = state.sent !== null && state.sent !== fingerprint() + state.bypass;
  root.querySelector(".sum").textContent = state.rows.length ? words + (stale ? " · changed since the last reply" : "") : "";
  root.querySelector(".dirty").hidden = !state.preset || state.saved === fingerprint();
  root.querySelector("#undo").disabled = !past.length;
  root.querySelector("#redo").disabled = !future.length;
  const on = state.rows.filter((r) => r.strength !== 0 || r.mode !== "add").length;
  root.querySelector(".count").textContent = state.bypass ? "bypassed" : on === 1 ? "1 feature on" : `${on} features on`;
}

function notice(words, problem = false, [label, act] = []) {
  const place = root.querySelector(".notice");
  place.classList.toggle("problem", problem);
  place.replaceChildren(words, label ? el("button", { type: "button", onclick: act }, label) : "");
}

function onKey(event) {
  const field = event.target.closest?.("textarea, input:not([type=range], [type=checkbox])");
  const typing = field && !(root.contains(field) && field.type === "number");
  if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) document.querySelector("#stop")?.click();
  if (typing) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    (event.shiftKey ? redo : undo)();
  }
  if (event.key.toLowerCase() === "b" && !event.ctrlKey && !event.metaKey && !event.altKey && state.rows.length) bypass();
}

function onClick(event) {
  if (event.target.closest?.("[data-tiller=halve]")) halve();
}

const drawer = root.querySelector(".handle");
drawer.addEventListener("click", () => drawer.setAttribute("aria-expanded", String(root.classList.toggle("open"))));

// The other fields' values, which Gradio knows even where it does not draw them. Asks no server.
async function fields() {
  const values = await new Promise((done) => { window.tiller.given = done; trigger("copy"); });
  const names = ["message", "system", "temperature", "top_p", "repetition_penalty", "max_tokens", "seed"];
  return Object.fromEntries(names.map((name, i) => [name, values[i]]));
}

// What Send reads; nothing is sent before.
function read() {
  state.sent = fingerprint() + state.bypass;
  changed();
  return { rows: steering().features, bypass: state.bypass, scale: state.scale, scope: state.scope };
}

window.tiller?.leave();
document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
window.tiller = { read, given: () => {}, chosen: () => [], leave() { document.removeEventListener("keydown", onKey); document.removeEventListener("click", onClick); } };
draw();
loadPersonas().then(draw);
