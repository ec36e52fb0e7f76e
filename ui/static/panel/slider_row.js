// Slider row: slider, number field and facts of one feature. Moving it sends no request.
import { disableWhen, el, icon } from "../lib/dom.js";
import { presetsOnlyText } from "../lib/roles.js";
import {
  ariaValueText,
  clampDose,
  DOSE_STEP,
  isInDanger,
  isInSweetSpot,
  MAX_DOSE,
  MIN_DOSE,
  positionText,
  roundDose,
  roundToStep,
  snapToZero,
  sweetSpotText,
  trackPercent,
} from "./dose.js";
import { pushUndo, removeRow, valuesChanged } from "./slider_state.js";

const KEYS = {
  ArrowRight: (x) => x + DOSE_STEP,
  ArrowUp: (x) => x + DOSE_STEP,
  ArrowLeft: (x) => x - DOSE_STEP,
  ArrowDown: (x) => x - DOSE_STEP,
  PageUp: (x) => x + 10 * DOSE_STEP,
  PageDown: (x) => x - 10 * DOSE_STEP,
  Home: () => MIN_DOSE,
  End: () => MAX_DOSE,
  0: () => 0,
  Delete: () => 0,
};

export function rowNode(row, index) {
  const parts = rowParts(row);
  const show = () => showRow(row, parts);
  const set = (value) => {
    pushUndo();
    row.strength = roundDose(clampDose(value));
    show();
    valuesChanged();
  };
  addListeners(row, parts, set, show);
  show();
  return el(
    "fieldset",
    { class: "row" },
    el("legend", {}, row.label),
    el(
      "div",
      { class: "top" },
      el(
        "div",
        { class: "name" },
        el("span", { class: "label", title: row.label, "aria-hidden": "true" }, row.label),
        el("code", {}, row.id),
      ),
      parts.number,
      disableWhen(
        icon("↺", `Reset ${row.label}`, () => set(0), { id: `reset ${row.id}` }),
        presetsOnlyText(),
      ),
      disableWhen(
        icon("✕", `Remove ${row.label}`, () => removeRow(index)),
        presetsOnlyText(),
      ),
    ),
    el("div", { class: "track" }, parts.scale, parts.range),
    el(
      "div",
      { class: "ticks", "aria-hidden": "true" },
      ["−2 less", "−1", "0", "+1", "more +2"].map((t) => el("span", {}, t)),
    ),
    el("div", { class: "facts" }, el("span", {}, sweetSpotText(row)), parts.place),
  );
}

function rowParts(row) {
  const range = el("input", {
    type: "range",
    min: MIN_DOSE,
    max: MAX_DOSE,
    step: 0.01,
    "aria-label": row.label,
    "data-key": `range ${row.id}`,
  });
  const number = el("input", {
    type: "number",
    min: MIN_DOSE,
    max: MAX_DOSE,
    step: DOSE_STEP,
    class: "dose",
    "aria-label": `${row.label}, dose`,
    "data-key": `number ${row.id}`,
  });
  const fill = el("span", { class: "fill" });
  const band = row.spot && row.mode === "add" ? el("span", { class: "band" }) : null;
  if (band) {
    band.style.left = `${trackPercent(row.spot.low)}%`;
    band.style.width = `${trackPercent(row.spot.high) - trackPercent(row.spot.low)}%`;
  }
  const scale = el(
    "span",
    { class: "scale", "aria-hidden": "true" },
    el("span", { class: "hatch left" }),
    el("span", { class: "hatch right" }),
    band,
    fill,
    el("span", { class: "zero" }),
  );
  for (const control of [range, number]) {
    control.disabled = row.mode === "ablate";
    disableWhen(control, presetsOnlyText());
  }
  return { range, number, fill, scale, place: el("span", { class: "dose-position" }) };
}

function showRow(row, { range, number, fill, place }) {
  const [from, to] = [
    trackPercent(Math.min(0, row.strength)),
    trackPercent(Math.max(0, row.strength)),
  ];
  fill.style.left = `${from}%`;
  fill.style.width = `${to - from}%`;
  fill.classList.toggle("minus", row.strength < 0);
  range.value = row.strength;
  range.setAttribute("aria-valuetext", ariaValueText(row));
  number.value = roundDose(row.strength).toFixed(2);
  place.textContent = (isInDanger(row) ? "⚠ " : isInSweetSpot(row) ? "✓ " : "") + positionText(row);
  const level = isInDanger(row) ? "danger" : isInSweetSpot(row) ? "good" : "";
  place.className = `dose-position ${level}`;
}

function addListeners(row, { range, number }, set, show) {
  const move = (value) => {
    row.strength = value;
    show();
    valuesChanged();
  };
  onDragged(range, () => move(snapToZero(roundToStep(+range.value))));
  onSliderKeys(range, KEYS, () => row.strength, set);
  number.addEventListener("change", () =>
    number.value === "" ? show() : set(Math.abs(+number.value) < DOSE_STEP ? 0 : +number.value),
  );
}

// A drag is one step of undo.
export function onDragged(range, move) {
  let dragging = false;
  range.addEventListener("input", () => {
    if (!dragging) pushUndo();
    dragging = true;
    move();
  });
  range.addEventListener("change", () => {
    dragging = false;
  });
}

export function onSliderKeys(range, keys, value, set) {
  range.addEventListener("keydown", (event) => {
    const move = keys[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    set(roundDose(move(value())));
  });
}

// Total strength, the API's `scale`: 0 is off, 1 is the persona as it was saved.
const MAX_SCALE = 2;
const MASTER_KEYS = { ...KEYS, Home: () => 0, End: () => MAX_SCALE };

export function totalStrengthNode(state) {
  const range = el("input", {
    type: "range",
    id: "total-strength",
    min: 0,
    max: MAX_SCALE,
    step: DOSE_STEP,
    "aria-label": "Strength of all",
    "data-key": "range total-strength",
  });
  const number = el("input", {
    type: "number",
    min: 0,
    max: MAX_SCALE,
    step: DOSE_STEP,
    class: "times",
    "aria-label": "Strength of all, as a number",
    "data-key": "number total-strength",
  });
  const fill = el("span", { class: "fill" }),
    words = el("span", { class: "label" });
  const show = () => {
    range.value = state.scale;
    number.value = roundDose(state.scale).toFixed(2);
    fill.style.width = `calc(${(Math.min(MAX_SCALE, state.scale) / MAX_SCALE) * 100}% + 10px)`;
    words.textContent = `Strength ×${roundDose(state.scale).toFixed(2)}`;
    range.setAttribute(
      "aria-valuetext",
      `times ${roundDose(state.scale)}${state.scale === 0 ? ", off" : ""}`,
    );
  };
  const move = (value) => {
    state.scale = roundDose(Math.min(MAX_SCALE, Math.max(0, value)));
    show();
    valuesChanged();
  };
  const set = (value) => {
    pushUndo();
    move(value);
  };
  onDragged(range, () => move(+range.value));
  onSliderKeys(range, MASTER_KEYS, () => state.scale, set);
  number.addEventListener("change", () => (number.value === "" ? show() : set(+number.value)));
  show();
  return el(
    "fieldset",
    { class: "total-strength" },
    el("legend", {}, "Strength of all"),
    el("div", { class: "top" }, el("div", { class: "name" }, words), number),
    el(
      "div",
      { class: "track" },
      el("span", { class: "scale", "aria-hidden": "true" }, fill),
      range,
    ),
    el(
      "div",
      { class: "ticks", "aria-hidden": "true" },
      ["0 off", "", "1", "", "2"].map((t) => el("span", {}, t)),
    ),
  );
}
