// One feature's row: slider, number box, what is known of it. Moving it asks nobody anything.
import {
  clamp,
  HIGH,
  inDanger,
  inSpot,
  LOW,
  percent,
  placeWords,
  snapped,
  spoken,
  spotWords,
  STEP,
  stepped,
  tidy,
} from "./dose.js";
import { el, icon, off } from "../lib/dom.js";
import { onlyPersonas } from "../lib/roles.js";
import { changed, remember, removeRow } from "./slider_state.js";

const KEYS = {
  ArrowRight: (x) => x + STEP,
  ArrowUp: (x) => x + STEP,
  ArrowLeft: (x) => x - STEP,
  ArrowDown: (x) => x - STEP,
  PageUp: (x) => x + 10 * STEP,
  PageDown: (x) => x - 10 * STEP,
  Home: () => LOW,
  End: () => HIGH,
  0: () => 0,
  Delete: () => 0,
};

export function rowNode(row, index) {
  const parts = rowParts(row);
  const show = () => showRow(row, parts);
  const set = (value) => {
    remember();
    row.strength = tidy(clamp(value));
    show();
    changed();
  };
  listen(row, parts, set, show);
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
      off(
        icon("↺", `Reset ${row.label}`, () => set(0), { id: `reset ${row.id}` }),
        onlyPersonas(),
      ),
      off(
        icon("✕", `Remove ${row.label}`, () => removeRow(index)),
        onlyPersonas(),
      ),
    ),
    el("div", { class: "track" }, parts.scale, parts.range),
    el(
      "div",
      { class: "ticks", "aria-hidden": "true" },
      ["−2 less", "−1", "0", "+1", "more +2"].map((t) => el("span", {}, t)),
    ),
    el("div", { class: "facts" }, el("span", {}, spotWords(row)), parts.place),
  );
}

function rowParts(row) {
  const range = el("input", {
    type: "range",
    min: LOW,
    max: HIGH,
    step: 0.01,
    "aria-label": row.label,
    "data-key": `range ${row.id}`,
  });
  const number = el("input", {
    type: "number",
    min: LOW,
    max: HIGH,
    step: STEP,
    class: "dose",
    "aria-label": `${row.label}, dose`,
    "data-key": `number ${row.id}`,
  });
  const fill = el("span", { class: "fill" });
  const band = row.spot && row.mode === "add" ? el("span", { class: "band" }) : null;
  if (band) {
    band.style.left = `${percent(row.spot.low)}%`;
    band.style.width = `${percent(row.spot.high) - percent(row.spot.low)}%`;
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
    off(control, onlyPersonas());
  }
  return { range, number, fill, scale, place: el("span", { class: "place" }) };
}

function showRow(row, { range, number, fill, place }) {
  const [from, to] = [percent(Math.min(0, row.strength)), percent(Math.max(0, row.strength))];
  fill.style.left = `${from}%`;
  fill.style.width = `${to - from}%`;
  fill.classList.toggle("minus", row.strength < 0);
  range.value = row.strength;
  range.setAttribute("aria-valuetext", spoken(row));
  number.value = tidy(row.strength).toFixed(2);
  place.textContent = (inDanger(row) ? "⚠ " : inSpot(row) ? "✓ " : "") + placeWords(row);
  place.className = `place ${inDanger(row) ? "danger" : inSpot(row) ? "good" : ""}`;
}

function listen(row, { range, number }, set, show) {
  const move = (value) => {
    row.strength = value;
    show();
    changed();
  };
  draggable(range, () => move(snapped(stepped(+range.value))));
  obeyKeys(range, KEYS, () => row.strength, set);
  number.addEventListener("change", () =>
    number.value === "" ? show() : set(Math.abs(+number.value) < STEP ? 0 : +number.value),
  );
}

// A whole drag is one step of undo.
export function draggable(range, move) {
  let dragging = false;
  range.addEventListener("input", () => {
    if (!dragging) remember();
    dragging = true;
    move();
  });
  range.addEventListener("change", () => {
    dragging = false;
  });
}

export function obeyKeys(range, keys, value, set) {
  range.addEventListener("keydown", (event) => {
    const move = keys[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    set(tidy(move(value())));
  });
}

// The strength of all rows together, the API's `scale`: 0 is off, 1 is as the persona was made.
const FULL = 2;
const MASTER_KEYS = { ...KEYS, Home: () => 0, End: () => FULL };

export function masterNode(state) {
  const range = el("input", {
    type: "range",
    id: "master",
    min: 0,
    max: FULL,
    step: STEP,
    "aria-label": "Strength of all",
    "data-key": "range master",
  });
  const number = el("input", {
    type: "number",
    min: 0,
    max: FULL,
    step: STEP,
    class: "times",
    "aria-label": "Strength of all, as a number",
    "data-key": "number master",
  });
  const fill = el("span", { class: "fill" }),
    words = el("span", { class: "label" });
  const show = () => {
    range.value = state.scale;
    number.value = tidy(state.scale).toFixed(2);
    fill.style.width = `calc(${(Math.min(FULL, state.scale) / FULL) * 100}% + 10px)`;
    words.textContent = `Strength ×${tidy(state.scale).toFixed(2)}`;
    range.setAttribute(
      "aria-valuetext",
      `times ${tidy(state.scale)}${state.scale === 0 ? ", off" : ""}`,
    );
  };
  const move = (value) => {
    state.scale = tidy(Math.min(FULL, Math.max(0, value)));
    show();
    changed();
  };
  const set = (value) => {
    remember();
    move(value);
  };
  draggable(range, () => move(+range.value));
  obeyKeys(range, MASTER_KEYS, () => state.scale, set);
  number.addEventListener("change", () => (number.value === "" ? show() : set(+number.value)));
  show();
  return el(
    "fieldset",
    { class: "master" },
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
