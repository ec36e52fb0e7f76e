// Feature actions: add to the sliders, star, rename, save a note; used wherever features are
// listed.
import { api, featurePath } from "../lib/api.js";
import { disableWhen, el, svgIcon, toast } from "../lib/dom.js";
import { missingRoleText, presetsOnlyText } from "../lib/roles.js";
import { userId } from "../lib/storage.js";
import { formatSigned } from "../panel/dose.js";
import {
  addFeature,
  addRows,
  hasRow,
  initialDose,
  MAX_ROWS,
  onRedraw,
  redraw,
  rowFromFeature,
  state,
} from "../panel/slider_state.js";
import { featureName } from "./descriptions.js";

export function addToSliders(feature) {
  if (hasRow(feature.id)) return toast(`${featureName(feature)} already has a slider.`);
  try {
    const strength = initialDose(feature);
    addFeature(feature, strength);
    toast(
      `Added ${featureName(feature)} at ` +
        `${strength ? formatSigned(strength) : "0; move its slider to steer"}.`,
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
}

export function addButton(feature, words = "") {
  const node = el("button", {
    type: "button",
    class: words ? "" : "icon",
    "data-plus": feature.id,
    "data-name": featureName(feature),
    "data-words": words,
    "data-key": `plus ${feature.id}`,
    onclick: () => fetchFeature(feature).then(addToSliders, toastError),
  });
  updateAddButton(node);
  return node;
}

const toastError = (error) => toast(error.message, { problem: true });
// The map has only ids and labels; the rest is fetched when it is needed.
const fetchFeature = async (feature) =>
  "dose" in feature ? feature : api(featurePath(feature.id));

function updateAddButton(node) {
  const { plus: id, name, words } = node.dataset,
    there = hasRow(id),
    label = there ? `${name} is on a slider` : `Add ${name} to the sliders`;
  node.textContent = `${there ? "✓" : "+"}${words ? ` ${there ? "on a slider" : words}` : ""}`;
  node.title = label;
  if (!words) node.setAttribute("aria-label", label);
  node.classList.toggle("there", there);
  disableWhen(node, presetsOnlyText());
}
onRedraw(() => {
  for (const node of document.querySelectorAll("[data-plus]")) updateAddButton(node);
});

// Adds many features at dose 0, since their sweet spots together would be far too strong.
export async function addAllToSliders(ids) {
  const fresh = ids.filter((id) => !hasRow(id));
  if (state.rows.length + fresh.length > MAX_ROWS)
    throw new Error(`At most ${MAX_ROWS} features can be steered at once.`);
  const features = await Promise.all(fresh.map((id) => api(featurePath(id))));
  addRows(features.map((f) => rowFromFeature(f, 0)));
  toast(
    fresh.length ? `Added ${fresh.length} sliders, all at 0.` : "All of them already have sliders.",
  );
}
export const hasRoomFor = (ids) =>
  state.rows.length + ids.filter((id) => !hasRow(id)).length <= MAX_ROWS;

const saveListeners = [];
export const onSaved = (act) => saveListeners.push(act);

// Saves a label, a note or a star, and updates the slider's label.
export async function saveFeature(feature, changes) {
  const saved = await api(featurePath(feature.id), "PATCH", { ...changes, user: userId() });
  const row = state.rows.find((r) => r.id === feature.id);
  if (row && row.label !== featureName(saved)) {
    row.label = featureName(saved);
    redraw();
  }
  for (const act of saveListeners) act(saved);
  return saved;
}

// Labels, notes and stars are shared by all users; "" if this user may edit them.
export const editRoleText = () => missingRoleText("PATCH /v1/features/{feature_id:path}");

export const starButton = (feature) =>
  disableWhen(
    el(
      "button",
      {
        type: "button",
        class: `icon star${feature.starred ? " on" : ""}`,
        "aria-pressed": String(feature.starred),
        "aria-label": `Star ${featureName(feature)}`,
        title: feature.starred ? "Starred" : "Star",
        "data-key": `star ${feature.id}`,
        onclick: () => saveFeature(feature, { starred: !feature.starred }).catch(toastError),
      },
      svgIcon("star"),
    ),
    editRoleText(),
  );
