// The sliders' state, their history, and the API's `steering` object that they stand for. Knows no elements.
import { api, featurePath, model } from "../lib/api.js";
import { tidy } from "./dose.js";
import { keepInTab, ofTab } from "../lib/storage.js";

export const MOST = 32;
const EMPTY = { rows: [], preset: "", saved: "", scale: 1, scope: "assistant" };
export const state = {
  ...EMPTY,
  ...ofTab("sliders", {}),
  bypass: false,
  presets: [],
  sent: null,
  unfolded: null,
};
const past = [],
  future = [],
  drawers = [],
  followers = [];

export const onDraw = (act) => drawers.push(act);
export const onChange = (act) => followers.push(act);

// Rows have come or gone: what shows them has to be drawn anew.
export function redraw() {
  for (const act of drawers) act();
  changed();
}

// Only values have moved.
export function changed() {
  keepInTab("sliders", JSON.parse(snapshot()));
  for (const act of followers) act();
}

const snapshot = () =>
  JSON.stringify(Object.fromEntries(Object.keys(EMPTY).map((name) => [name, state[name]])));
export const fingerprint = () =>
  JSON.stringify([
    state.scale,
    state.scope,
    ...state.rows.map(({ id, strength, mode }) => [id, strength, mode]),
  ]);
export const dirty = () => Boolean(state.preset) && state.saved !== fingerprint();
// The persona's name, if its features are as it was saved; its strength may be another.
export const asMade = () =>
  (state.preset &&
  JSON.parse(state.saved || "[0,0]")
    .slice(2)
    .join() === JSON.parse(fingerprint()).slice(2).join()
    ? presetOf()?.name
    : "") || "";
export const stale = () => state.sent !== null && state.sent !== fingerprint() + state.bypass;
export const markSent = () => {
  state.sent = fingerprint() + state.bypass;
  changed();
};

export const steering = () => ({
  features: state.rows.map(({ id, strength, mode }) => ({ id, strength, mode })),
  unit: "dose",
  scale: state.scale,
  scope: state.scope,
});
// What a reply is asked with: null where nothing is steered.
export const asked = () => (state.rows.length && !state.bypass ? steering() : null);

export function remember() {
  past.push(snapshot());
  past.splice(0, past.length - 200);
  future.length = 0;
}

function travel(from, to) {
  if (!from.length) return;
  to.push(snapshot());
  Object.assign(state, JSON.parse(from.pop()));
  redraw();
}
export const undo = () => travel(past, future),
  redo = () => travel(future, past);
export const canUndo = () => past.length > 0,
  canRedo = () => future.length > 0;

function act(change) {
  remember();
  change();
  redraw();
}

export const removeRow = (index) => act(() => state.rows.splice(index, 1));
export const resetAll = () =>
  act(() => {
    for (const row of state.rows) row.strength = 0;
  });
export const ease = () =>
  act(() => {
    state.scale = tidy(state.scale / 2);
  });
export const bypass = () => {
  state.bypass = !state.bypass;
  redraw();
};

export const rowOf = (feature, strength, mode = "add") => ({
  id: feature.id,
  label: feature.label || feature.id,
  strength,
  mode,
  measured: feature.dose != null,
  spot: feature.sweet_spot,
  works: feature.calibration?.works,
});

// Where a feature just begins to be useful: the middle of its sweet spot, or off.
export const startOf = (feature) =>
  feature.sweet_spot ? tidy((feature.sweet_spot.low + feature.sweet_spot.high) / 2) : 0;
export const has = (id) => state.rows.some((row) => row.id === id);

export function addRows(rows) {
  const fresh = rows.filter((row) => !has(row.id));
  if (state.rows.length + fresh.length > MOST)
    throw new Error(`${MOST} features are the most that one request may steer.`);
  act(() => {
    state.rows.push(...fresh);
    state.unfolded = true;
  });
  return fresh.length;
}

export const add = (feature, strength = 0) => addRows([rowOf(feature, strength)]);

// Takes a steering object as the API knows it: features that this server has not are told, never dropped in silence.
// Of several that were asked for in haste the last one counts.
let taking = 0,
  pending = Promise.resolve();
// When what was asked for is on the sliders; until then nothing may be sent, or a reply would lack what somebody chose.
export const settled = () => pending;

// Resolves to the ids that are missing; to null where something else was asked for meanwhile, and nothing was set.
export function take(given, how = {}) {
  const done = taken(given, how);
  pending = Promise.allSettled([pending, done]);
  return done;
}

async function taken(given, { preset = "" }) {
  const mine = ++taking;
  const doses = given.unit === "dose" ? {} : await dosesOf(given);
  const found = await Promise.allSettled(
    given.features.map((f) =>
      api(featurePath(f.id)).then((feature) => rowOf(feature, doses[f.id] ?? f.strength, f.mode)),
    ),
  );
  const missing = given.features
    .filter((_, i) => found[i].status === "rejected" && found[i].reason.status === 404)
    .map((f) => f.id);
  const broken = found.find((one) => one.status === "rejected" && one.reason.status !== 404);
  if (mine !== taking) return null;
  if (broken) throw broken.reason;
  act(() =>
    Object.assign(state, {
      rows: found.flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])),
      preset,
      scope: given.scope || "assistant",
      scale: given.scale ?? 1,
      bypass: false,
      unfolded: null,
    }),
  );
  state.saved = fingerprint();
  redraw();
  return missing;
}

async function dosesOf(given) {
  const { applied } = await api("steering/validate", "POST", {
    model: await model(),
    steering: { ...given, scale: 1 },
  });
  return Object.fromEntries(
    applied.filter((a) => a.mode === "add" || a.mode === "clamp").map((a) => [a.id, tidy(a.dose)]),
  );
}

export const presetOf = (id = state.preset) => state.presets.find((p) => p.id === id);
