// Slider state: rows, undo history, and the API's `steering` object.
import { api, featurePath, modelId } from "../lib/api.js";
import { readFromTab, saveInTab } from "../lib/storage.js";
import { roundDose } from "./dose.js";

export const MAX_ROWS = 32;
const NO_SLIDERS = {
  rows: [],
  preset: "",
  saved: "",
  scale: 1,
  scope: null,
  kept: {},
};
// Fields of a loaded steering that the page has no controls for; they are sent as they came.
const KEPT = ["skip_special", "positions", "norm"];
export const state = {
  ...NO_SLIDERS,
  ...readFromTab("sliders", {}),
  bypass: false,
  presets: [],
  sent: null,
  unfolded: null,
};
const undoStack = [],
  redoStack = [],
  redrawListeners = [],
  changeListeners = [];

export const onRedraw = (act) => redrawListeners.push(act);
export const onChange = (act) => changeListeners.push(act);

// Call when rows were added or removed.
export function redraw() {
  for (const act of redrawListeners) act();
  valuesChanged();
}

// Call when only values have changed.
export function valuesChanged() {
  saveInTab("sliders", JSON.parse(snapshot()));
  for (const act of changeListeners) act();
}

const snapshot = () =>
  JSON.stringify(Object.fromEntries(Object.keys(NO_SLIDERS).map((name) => [name, state[name]])));
export const fingerprint = () =>
  JSON.stringify([
    state.scale,
    [state.scope, state.kept],
    ...state.rows.map(({ id, strength, mode }) => [id, strength, mode]),
  ]);
export const isModified = () => Boolean(state.preset) && state.saved !== fingerprint();
// The persona's name if its features are as saved, at whatever total strength; "" otherwise.
export const unchangedPresetName = () =>
  (state.preset &&
  JSON.parse(state.saved || "[0,0]")
    .slice(2)
    .join() === JSON.parse(fingerprint()).slice(2).join()
    ? presetOf()?.name
    : "") || "";
export const changedSinceReply = () =>
  state.sent !== null && state.sent !== fingerprint() + state.bypass;
export const markSent = () => {
  state.sent = fingerprint() + state.bypass;
  valuesChanged();
};

export const steering = () => ({
  features: state.rows.map(({ id, strength, mode }) => ({
    id,
    strength,
    mode,
  })),
  unit: "dose",
  scale: state.scale,
  ...(state.scope ? { scope: state.scope } : {}), // else the model's own
  ...state.kept,
});
// The steering of the next reply; null if nothing is steered.
export const activeSteering = () => (state.rows.length && !state.bypass ? steering() : null);

export function pushUndo() {
  undoStack.push(snapshot());
  undoStack.splice(0, undoStack.length - 200);
  redoStack.length = 0;
}

function restoreSnapshot(from, to) {
  if (!from.length) return;
  to.push(snapshot());
  Object.assign(state, JSON.parse(from.pop()));
  redraw();
}
export const undo = () => restoreSnapshot(undoStack, redoStack),
  redo = () => restoreSnapshot(redoStack, undoStack);
export const canUndo = () => undoStack.length > 0,
  canRedo = () => redoStack.length > 0;

function changeRows(change) {
  pushUndo();
  change();
  redraw();
}

export const removeRow = (index) => changeRows(() => state.rows.splice(index, 1));
export const resetAll = () =>
  changeRows(() => {
    for (const row of state.rows) row.strength = 0;
  });
export const halveStrength = () =>
  changeRows(() => {
    state.scale = roundDose(state.scale / 2);
  });
export const toggleBypass = () => {
  state.bypass = !state.bypass;
  redraw();
};

export const rowFromFeature = (feature, strength, mode = "add") => ({
  id: feature.id,
  label: feature.label || feature.id,
  strength,
  mode,
  measured: feature.dose != null,
  spot: feature.sweet_spot,
  works: feature.calibration?.works,
});

// The dose of a new slider: the middle of its sweet spot, or 0.
export const initialDose = (feature) =>
  feature.sweet_spot ? roundDose((feature.sweet_spot.low + feature.sweet_spot.high) / 2) : 0;
export const hasRow = (id) => state.rows.some((row) => row.id === id);

export function addRows(rows) {
  const fresh = rows.filter((row) => !hasRow(row.id));
  if (state.rows.length + fresh.length > MAX_ROWS)
    throw new Error(`At most ${MAX_ROWS} features can be steered at once.`);
  changeRows(() => {
    state.rows.push(...fresh);
    state.unfolded = true;
  });
  return fresh.length;
}

export const addFeature = (feature, strength = 0) => addRows([rowFromFeature(feature, strength)]);

// Loading a steering object: of several started in a row the last one counts.
let lastLoad = 0,
  pending = Promise.resolve();
// Resolves when the sliders are loaded; a message sent before that would not be steered by them.
export const whenLoaded = () => pending;

// Sets the sliders from the API's steering object. Resolves to the ids that this server does not
// have, or to null if a later call replaced this one.
export function loadSteering(spec, options = {}) {
  const done = fetchRows(spec, options);
  pending = Promise.allSettled([pending, done]);
  return done;
}

async function fetchRows(spec, { preset = "" }) {
  const thisLoad = ++lastLoad;
  const doses = spec.unit === "dose" ? {} : await fetchDoses(spec);
  const results = await Promise.allSettled(
    spec.features.map((f) =>
      api(featurePath(f.id)).then((feature) =>
        rowFromFeature(feature, doses[f.id] ?? f.strength, f.mode),
      ),
    ),
  );
  const missing = spec.features
    .filter((_, i) => results[i].status === "rejected" && results[i].reason.status === 404)
    .map((f) => f.id);
  const broken = results.find((one) => one.status === "rejected" && one.reason.status !== 404);
  if (thisLoad !== lastLoad) return null;
  if (broken) throw broken.reason;
  changeRows(() =>
    Object.assign(state, {
      rows: results.flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])),
      preset,
      scope: spec.scope || null,
      kept: Object.fromEntries(
        KEPT.filter((name) => spec[name] != null && spec[name].length !== 0).map((name) => [
          name,
          spec[name],
        ]),
      ),
      scale: spec.scale ?? 1,
      bypass: false,
      unfolded: null,
    }),
  );
  state.saved = fingerprint();
  redraw();
  return missing;
}

async function fetchDoses(spec) {
  const { applied } = await api("steering/validate", "POST", {
    model: await modelId(),
    steering: { ...spec, scale: 1 },
  });
  return Object.fromEntries(
    applied
      .filter((a) => a.mode === "add" || a.mode === "clamp")
      .map((a) => [a.id, roundDose(a.dose)]),
  );
}

export const presetOf = (id = state.preset) => state.presets.find((p) => p.id === id);
