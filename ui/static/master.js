// The strength of all rows together, the API's `scale`: 0 is off, 1 is as the persona was made.
const FULL = 2;
const MASTER_KEYS = { ...KEYS, Home: () => 0, End: () => FULL };

function masterNode() {
  const range = el("input", { type: "range", id: "master", min: 0, max: FULL, step: STEP, "aria-label": "Strength of all", "data-key": "range master" });
  const number = el("input", { type: "number", min: 0, max: FULL, step: STEP, class: "times", "aria-label": "Strength of all, as a number", "data-key": "number master" });
  const fill = el("span", { class: "fill" }), words = el("span", { class: "label" });
  const show = () => {
    range.value = state.scale;
    number.value = tidy(state.scale).toFixed(2);
    fill.style.width = `calc(${(Math.min(FULL, state.scale) / FULL) * 100}% + 10px)`;
    words.textContent = `Strength ×${tidy(state.scale).toFixed(2)}`;
    range.setAttribute("aria-valuetext", `times ${tidy(state.scale)}${state.scale === 0 ? ", off" : ""}`);
  };
  const set = (value) => { remember(); state.scale = tidy(Math.min(FULL, Math.max(0, value))); show(); changed(); };
  let dragging = false;
  range.addEventListener("input", () => {
    if (!dragging) remember();
    dragging = true;
    state.scale = tidy(+range.value);
    show();
    changed();
  });
  range.addEventListener("change", () => { dragging = false; });
  range.addEventListener("keydown", (event) => {
    const move = MASTER_KEYS[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    set(move(state.scale));
  });
  number.addEventListener("change", () => (number.value === "" ? show() : set(+number.value)));
  show();
  const scale = el("span", { class: "scale", "aria-hidden": "true" }, fill);
  return el("fieldset", { class: "master" }, el("legend", {}, "Strength of all"),
    el("div", { class: "top" }, el("div", { class: "name" }, words), number),
    el("div", { class: "track" }, scale, range),
    el("div", { class: "ticks", "aria-hidden": "true" }, ...["0 off", "", "1", "", "2"].map((t) => el("span", {}, t))));
}

// Few rows are shown; a persona of two dozen is folded until somebody wants to see it.
function rowsNode() {
  const many = state.rows.length > 4;
  const details = el("details", { class: "rows", open: state.unfolded ?? !many }, el("summary", {}, state.rows.length === 1 ? "1 feature" : `${state.rows.length} features`), ...state.rows.map(rowNode));
  details.addEventListener("toggle", () => { state.unfolded = details.open; });
  return details;
}
