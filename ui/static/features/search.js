// What is looked for among the features, and what was found so far, page by page. Knows the API and no elements.
import { api, featurePath, whenReady } from "../lib/api.js";
import { keepInTab, ofTab } from "../lib/storage.js";

export const MODES = {
  text: ["Words", "Words of labels, examples and notes; beginnings of words will do."],
  meaning: ["Meaning", "What the model takes a text to mean."],
  prompt: ["Prompt", "What a message evokes in the model, the most telling first."],
  common: ["In common", "What all of several messages evoke and others do not."],
  id: ["Id", "One feature by its id or number."],
};
const EVERYTHING = { mode: "text", q: "", prompts: "", without: "" };
const UNFILTERED = { label: "", dose: "", kind: "", from: "", to: "", starred: false };
const PAGE = 50,
  MOST = 32;

export const wanted = { ...EVERYTHING, ...UNFILTERED, sort: "score", ...ofTab("features", {}) };
export const found = { rows: [], total: 0, missing: 0, next: "0", state: "empty", problem: "" };
// `asked` is what the list answers; what is wanted may have been typed on since.
let ids = null,
  asked = { ids: null },
  asking,
  tell = () => {};

export const onFound = (act) => {
  tell = act;
};
export const chosen = () => asked.ids?.length ?? 0;
export const filters = () => Object.keys(UNFILTERED).filter((name) => wanted[name]).length;

export function want(changes) {
  ids = null;
  Object.assign(wanted, changes);
  keepInTab("features", wanted);
}
export const unfilter = () => want(UNFILTERED);
export function wantIds(list) {
  ids = list;
}

const lines = (text) =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean)
    .slice(0, MOST);
// Whether there is anything to ask: the model is not read for nothing.
export const askable = () =>
  ids ||
  {
    text: true,
    id: wanted.q.trim(),
    meaning: wanted.q.trim(),
    prompt: wanted.q.trim(),
    common: lines(wanted.prompts).length,
  }[wanted.mode];

export async function find() {
  asking?.abort();
  asking = new AbortController();
  asked = { ...wanted, ids };
  Object.assign(found, {
    rows: [],
    total: 0,
    missing: 0,
    next: "0",
    problem: "",
    state: "loading",
  });
  if (!askable()) return tell((found.state = "unasked"));
  await go(asking.signal);
}

export const more = () => {
  asking = new AbortController();
  found.state = "more";
  return go(asking.signal);
};

async function go(signal) {
  tell();
  try {
    await whenReady(() => gather(signal));
    if (signal.aborted) return;
    found.state = found.rows.length ? "found" : "none";
  } catch (error) {
    if (signal.aborted) return;
    Object.assign(found, { state: "failed", problem: error.message });
  }
  tell();
}

async function gather(signal) {
  const got = await page(found.next, signal);
  if (signal.aborted) return;
  Object.assign(found, { total: got.total, next: got.next_cursor });
  found.rows.push(...got.data);
}

function page(cursor, signal) {
  if (asked.ids) return pageOfIds(asked.ids, +cursor, signal);
  const { mode, q, sort, prompts, without } = asked,
    how = { ...filtered(asked), sort, limit: PAGE, cursor };
  // What people say goes into a body, not into an address that is written to logs.
  if (mode === "prompt")
    return api("features/search", "POST", { ...how, prompts: [q.trim()] }, { signal });
  if (mode === "common")
    return api(
      "features/search",
      "POST",
      { ...how, prompts: lines(prompts), without: lines(without) },
      { signal },
    );
  return api(`features?${new URLSearchParams({ ...how, mode, q: q.trim() })}`, "GET", undefined, {
    signal,
  });
}

function filtered({ label, dose, kind, from, to, starred }) {
  const told = {
    labelled: { some: true, none: false }[label],
    kind: kind || null,
    starred: starred || null,
    calibrated: { measured: true, unmeasured: false }[dose],
    works: dose === "works" || null,
    min_density: part(from),
    max_density: part(to),
  };
  return Object.fromEntries(Object.entries(told).filter(([, value]) => value != null));
}
const part = (percent) => (percent === "" ? null : Math.min(1, Math.max(0, percent / 100)));

async function pageOfIds(ids, start, signal) {
  const answers = await Promise.allSettled(
    ids.slice(start, start + PAGE).map((id) => api(featurePath(id), "GET", undefined, { signal })),
  );
  const broken = answers.find((one) => one.status === "rejected" && one.reason.status !== 404);
  if (broken) throw broken.reason;
  const data = answers.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  found.missing += answers.length - data.length;
  return { data, total: ids.length, next_cursor: start + PAGE < ids.length ? start + PAGE : null };
}
