// The steering panel: the persona, the sliders, the searches. What one row or a persona does is other files'.
import { showCode } from "./code_export.js";
import { el, icon, keepFocus, sign } from "../lib/dom.js";
import { notice, noticeNode } from "../lib/notice.js";
import { finder, wisher } from "./add_feature.js";
import { learn, loadWords } from "./total_load.js";
import { loadPersonas, personaBar } from "./personas.js";
import { masterNode, rowNode } from "./slider_row.js";
import { known, onlyPersonas } from "../lib/roles.js";
import { openShared, showShare } from "./share_link.js";
import {
  bypass,
  canRedo,
  canUndo,
  dirty,
  onChange,
  onDraw,
  redo,
  redraw,
  resetAll,
  stale,
  state,
  undo,
} from "./slider_state.js";
import { whenReady } from "../lib/api.js";

let root;

export function mount(element) {
  root = element.querySelector(".tiller");
  const handle = root.querySelector(".handle");
  handle.addEventListener("click", () =>
    handle.setAttribute("aria-expanded", String(root.classList.toggle("open"))),
  );
  onDraw(draw);
  onChange(follow);
  document.addEventListener("keydown", onKey);
  redraw();
  whenReady(() => Promise.all([loadPersonas(), known()]))
    .then(openShared)
    .then(redraw)
    .catch((error) => notice(error.message, true));
}

function draw() {
  keepFocus(root, () => {
    root.classList.toggle("bypassed", state.bypass);
    const empty = el(
      "p",
      { class: "empty" },
      onlyPersonas() ||
        "No sliders yet. Choose a persona, say what replies should be like, or search for a feature.",
    );
    root
      .querySelector(".body")
      .replaceChildren(
        bar(),
        personaBar(),
        noticeNode,
        ...(state.rows.length ? [masterNode(state), rowsNode()] : [empty]),
        el("p", { class: "sum", role: "status" }),
        ...(onlyPersonas() ? [] : [wisher(), finder()]),
      );
  });
}

function bar() {
  return el(
    "div",
    { class: "bar" },
    el("h2", {}, "Steering"),
    icon("↶", "Undo (Ctrl+Z)", undo, { id: "undo" }),
    icon("↷", "Redo (Ctrl+Shift+Z)", redo, { id: "redo" }),
    icon("⟲", "Reset all sliders to 0", resetAll, { id: "reset-all" }),
    el(
      "button",
      {
        type: "button",
        id: "bypass",
        "data-key": "bypass",
        title: "Bypass the sliders (B): the next reply is not steered",
        "aria-pressed": String(state.bypass),
        onclick: bypass,
      },
      "Bypass",
    ),
    icon(sign("link"), "Share these sliders as a link", showShare, { id: "share" }),
    icon("</>", "Show as code", showCode, { id: "code" }),
  );
}

// Few rows are shown; a persona of two dozen is folded until somebody wants to see it.
function rowsNode() {
  const details = el(
    "details",
    { class: "rows", open: state.unfolded ?? state.rows.length <= 4 },
    el("summary", {}, state.rows.length === 1 ? "1 feature" : `${state.rows.length} features`),
    onlyPersonas() ? el("p", { class: "about" }, onlyPersonas()) : null,
    state.rows.map(rowNode),
  );
  details.addEventListener("toggle", () => {
    state.unfolded = details.open;
  });
  return details;
}

// What follows from the sliders' values: how far they go together, marks, what can be undone.
function follow() {
  learn(state.rows, follow);
  const [words, means] = state.bypass
      ? ["Bypassed: the next reply is not steered.", ""]
      : loadWords(state),
    sum = root.querySelector(".sum");
  sum.textContent = state.rows.length
    ? words + (stale() ? " · changed since the last reply" : "")
    : "";
  sum.title = means;
  root.querySelector(".dirty").hidden = !dirty();
  root.querySelector("#undo").disabled = !canUndo();
  root.querySelector("#redo").disabled = !canRedo();
  const on = state.rows.filter((r) => r.strength !== 0 || r.mode !== "add").length;
  root.querySelector(".count").textContent = state.bypass
    ? "bypassed"
    : on === 1
      ? "1 feature on"
      : `${on} features on`;
}

function onKey(event) {
  const field = event.target.closest?.(
    "textarea, select, input:not([type=range], [type=checkbox])",
  );
  const typing = field && !(root.contains(field) && field.type === "number");
  if (typing || document.querySelector("dialog[open]")) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    (event.shiftKey ? redo : undo)();
  }
  if (
    event.key.toLowerCase() === "b" &&
    !event.ctrlKey &&
    !event.metaKey &&
    !event.altKey &&
    state.rows.length
  )
    bypass();
}
