// What one does with a feature wherever it is listed: puts it on a slider, stars it, names it, notes something.
import { api, featurePath } from "../lib/api.js";
import { signed } from "../panel/dose.js";
import { el, off, sign, toast } from "../lib/dom.js";
import { me } from "../lib/storage.js";
import { nameOf } from "./descriptions.js";
import { beyond, onlyPersonas } from "../lib/roles.js";
import {
  add,
  addRows,
  has,
  MOST,
  onDraw,
  redraw,
  rowOf,
  startOf,
  state,
} from "../panel/slider_state.js";

export function slide(feature) {
  if (has(feature.id)) return toast(`${nameOf(feature)} is on a slider already.`);
  try {
    const strength = startOf(feature);
    add(feature, strength);
    toast(
      `Added ${nameOf(feature)} at ${strength ? signed(strength) : "0: move its slider to push"}.`,
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
}

export function plus(feature, words = "") {
  const node = el("button", {
    type: "button",
    class: words ? "" : "icon",
    "data-plus": feature.id,
    "data-name": nameOf(feature),
    "data-words": words,
    "data-key": `plus ${feature.id}`,
    onclick: () => whole(feature).then(slide, failed),
  });
  mark(node);
  return node;
}

const failed = (error) => toast(error.message, { problem: true });
// The map knows only names; what a slider needs is asked for when it is wanted.
const whole = async (feature) => ("dose" in feature ? feature : api(featurePath(feature.id)));

function mark(node) {
  const { plus: id, name, words } = node.dataset,
    there = has(id),
    label = there ? `${name} is on a slider` : `Add ${name} to the sliders`;
  node.textContent = `${there ? "✓" : "+"}${words ? ` ${there ? "on a slider" : words}` : ""}`;
  node.title = label;
  if (!words) node.setAttribute("aria-label", label);
  node.classList.toggle("there", there);
  off(node, onlyPersonas());
}
onDraw(() => {
  for (const node of document.querySelectorAll("[data-plus]")) mark(node);
});

// Many at once start at 0: together their sweet spots would be far too much.
export async function slideAll(ids) {
  const fresh = ids.filter((id) => !has(id));
  if (state.rows.length + fresh.length > MOST)
    throw new Error(`${MOST} features are the most that one request may steer.`);
  const features = await Promise.all(fresh.map((id) => api(featurePath(id))));
  addRows(features.map((f) => rowOf(f, 0)));
  toast(
    fresh.length
      ? `Added ${fresh.length} sliders, all at 0.`
      : "All of them are on sliders already.",
  );
}
export const roomFor = (ids) => state.rows.length + ids.filter((id) => !has(id)).length <= MOST;

const followers = [];
export const onSaved = (act) => followers.push(act);

// Saves a label, a note or a star; what it is called shows on its slider, too.
export async function save(feature, changes) {
  const saved = await api(featurePath(feature.id), "PATCH", { ...changes, user: me() });
  const row = state.rows.find((r) => r.id === feature.id);
  if (row && row.label !== nameOf(saved)) {
    row.label = nameOf(saved);
    redraw();
  }
  for (const act of followers) act(saved);
  return saved;
}

// Names, notes and stars are everybody's.
export const mayEdit = () => beyond("PATCH /v1/features/{feature_id:path}");

export const star = (feature) =>
  off(
    el(
      "button",
      {
        type: "button",
        class: `icon star${feature.starred ? " on" : ""}`,
        "aria-pressed": String(feature.starred),
        "aria-label": `Star ${nameOf(feature)}`,
        title: feature.starred ? "Starred" : "Star",
        "data-key": `star ${feature.id}`,
        onclick: () => save(feature, { starred: !feature.starred }).catch(failed),
      },
      sign("star"),
    ),
    mayEdit(),
  );
