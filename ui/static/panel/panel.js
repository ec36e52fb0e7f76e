// Steering panel: persona, sliders, total load, and the ways to add a feature.
import { retryWhileLoading } from "../lib/api.js";
import { el, icon, keepFocus, svgIcon } from "../lib/dom.js";
import { notice, noticeNode } from "../lib/notice.js";
import { loadMe, presetsOnlyText } from "../lib/roles.js";
import { featureSearch, suggestByWish } from "./add_feature.js";
import { showCode } from "./code_export.js";
import { loadPersonas, personaBar } from "./personas.js";
import { openShared, showShare } from "./share_link.js";
import { rowNode, totalStrengthNode } from "./slider_row.js";
import {
  canRedo,
  canUndo,
  changedSinceReply,
  isModified,
  onChange,
  onRedraw,
  redo,
  redraw,
  resetAll,
  state,
  toggleBypass,
  undo,
} from "./slider_state.js";
import { fetchLoadFacts, loadText } from "./total_load.js";

let root;

export function mount(element) {
  root = element.querySelector(".tiller");
  const handle = root.querySelector(".handle");
  handle.addEventListener("click", () =>
    handle.setAttribute("aria-expanded", String(root.classList.toggle("open"))),
  );
  onRedraw(draw);
  onChange(updateValues);
  document.addEventListener("keydown", onKey);
  redraw();
  retryWhileLoading(() => Promise.all([loadPersonas(), loadMe()]))
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
      presetsOnlyText() ||
        "No sliders yet. Choose a persona, describe the replies you want, or search for a feature.",
    );
    root
      .querySelector(".body")
      .replaceChildren(
        headerBar(),
        personaBar(),
        noticeNode,
        ...(state.rows.length ? [totalStrengthNode(state), rowsNode()] : [empty]),
        el("p", { class: "total-load", role: "status" }),
        ...(presetsOnlyText() ? [] : [suggestByWish(), featureSearch()]),
      );
  });
}

function headerBar() {
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
        onclick: toggleBypass,
      },
      "Bypass",
    ),
    icon(svgIcon("link"), "Share these sliders as a link", showShare, { id: "share" }),
    icon("</>", "Show as code", showCode, { id: "code" }),
  );
}

// Up to four rows are open; more are folded until the user opens them.
function rowsNode() {
  const details = el(
    "details",
    { class: "rows", open: state.unfolded ?? state.rows.length <= 4 },
    el("summary", {}, state.rows.length === 1 ? "1 feature" : `${state.rows.length} features`),
    presetsOnlyText() ? el("p", { class: "about" }, presetsOnlyText()) : null,
    state.rows.map(rowNode),
  );
  details.addEventListener("toggle", () => {
    state.unfolded = details.open;
  });
  return details;
}

// Updates what depends on the sliders' values: total load, marks, undo and redo.
function updateValues() {
  fetchLoadFacts(state.rows, updateValues);
  const [text, explanation] = state.bypass
      ? ["Bypassed: the next reply is not steered.", ""]
      : loadText(state),
    sum = root.querySelector(".total-load");
  sum.textContent = state.rows.length
    ? text + (changedSinceReply() ? " · changed since the last reply" : "")
    : "";
  sum.title = explanation;
  root.querySelector(".dirty").hidden = !isModified();
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
    toggleBypass();
}
