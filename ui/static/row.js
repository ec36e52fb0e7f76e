// One feature's row: slider, number box, what is known of it. Moving it asks nobody anything.
const KEYS = {
  ArrowRight: (x) => x + STEP, ArrowUp: (x) => x + STEP, ArrowLeft: (x) => x - STEP, ArrowDown: (x) => x - STEP,
  PageUp: (x) => x + 10 * STEP, PageDown: (x) => x - 10 * STEP, Home: () => LOW, End: () => HIGH, 0: () => 0, Delete: () => 0,
};

function rowNode(row, index) {
  const parts = rowParts(row);
  const show = () => showRow(row, parts);
  const set = (value) => { remember(); row.strength = tidy(clamp(value)); show(); changed(); };
  listen(row, parts, set, show);
  const reset = el("button", { type: "button", class: "icon", title: "Reset to 0", "aria-label": `Reset ${row.label}`, "data-key": `reset ${row.id}`, onclick: () => set(0) }, "↺");
  const remove = el("button", { type: "button", class: "icon", title: "Remove", "aria-label": `Remove ${row.label}`, onclick: () => removeRow(index) }, "✕");
  show();
  return el("fieldset", { class: "row" },
    el("legend", {}, row.label),
    el("div", { class: "top" }, el("div", { class: "name" }, el("span", { class: "label", title: row.label, "aria-hidden": "true" }, row.label), el("code", {}, row.id)), parts.number, reset, remove),
    el("div", { class: "track" }, parts.scale, parts.range),
    el("div", { class: "ticks", "aria-hidden": "true" }, ...["−2 less", "−1", "0", "+1", "more +2"].map((t) => el("span", {}, t))),
    el("div", { class: "facts" }, el("span", {}, spotWords(row)), parts.place));
}

function rowParts(row) {
  const range = el("input", { type: "range", min: LOW, max: HIGH, step: 0.01, "aria-label": row.label, "data-key": `range ${row.id}` });
  const number = el("input", { type: "number", min: LOW, max: HIGH, step: STEP, class: "dose", "aria-label": `${row.label}, dose`, "data-key": `number ${row.id}` });
  const fill = el("span", { class: "fill" });
  const band = row.spot && row.mode === "add" ? el("span", { class: "band" }) : null;
  if (band) {
    band.style.left = `${percent(row.spot.low)}%`;
    band.style.width = `${percent(row.spot.high) - percent(row.spot.low)}%`;
  }
  const scale = el("span", { class: "scale", "aria-hidden": "true" }, el("span", { class: "hatch left" }), el("span", { class: "hatch right" }), band, fill, el("span", { class: "zero" }));
  range.disabled = number.disabled = row.mode === "ablate";
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
  let dragging = false;
  range.addEventListener("input", () => {
    if (!dragging) remember();
    dragging = true; // a whole drag is one step of undo
    row.strength = snapped(stepped(+range.value));
    show();
    changed();
  });
  range.addEventListener("change", () => { dragging = false; });
  range.addEventListener("keydown", (event) => {
    const move = KEYS[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    set(tidy(move(row.strength)));
  });
  number.addEventListener("change", () => (number.value === "" ? show() : set(Math.abs(+number.value) < STEP ? 0 : +number.value)));
}
