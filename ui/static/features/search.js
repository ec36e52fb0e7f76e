// Feature search: the query, its filters, and the results so far, page by page.
import { api, featurePath, retryWhileLoading } from "../lib/api.js";
import { readFromTab, saveInTab } from "../lib/storage.js";

export const MODES = {
  text: ["Words", "Words in labels, examples and notes; prefixes match."],
  meaning: ["Meaning", "Features whose labels are closest to your words."],
  prompt: ["Prompt", "Features that a message activates, the most specific first."],
  common: ["In common", "Features that all of several messages activate and others do not."],
  id: ["Id", "One feature by its id or number."],
};
const NO_QUERY = { mode: "text", q: "", prompts: "", without: "" };
const NO_FILTERS = { label: "", dose: "", kind: "", from: "", to: "", starred: false };
const PAGE_SIZE = 50,
  MAX_PROMPTS = 32;

export const query = { ...NO_QUERY, ...NO_FILTERS, sort: "score", ...readFromTab("features", {}) };
export const results = { rows: [], total: 0, missing: 0, next: "0", state: "empty", problem: "" };
// `current` is the query of the results; the user may have changed `query` since.
let selectedIds = null,
  current = { ids: null },
  controller,
  notify = () => {};

export const onResults = (act) => {
  notify = act;
};
export const selectedCount = () => current.ids?.length ?? 0;
export const activeFilters = () => Object.keys(NO_FILTERS).filter((name) => query[name]).length;

export function setQuery(changes) {
  selectedIds = null;
  Object.assign(query, changes);
  saveInTab("features", query);
}
export const clearFilters = () => setQuery(NO_FILTERS);
export function selectIds(list) {
  selectedIds = list;
}

const splitLines = (text) =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean)
    .slice(0, MAX_PROMPTS);
// Whether the query is complete; an empty one would run the model for nothing.
export const canSearch = () =>
  selectedIds ||
  {
    text: true,
    id: query.q.trim(),
    meaning: query.q.trim(),
    prompt: query.q.trim(),
    common: splitLines(query.prompts).length,
  }[query.mode];

export async function startSearch() {
  controller?.abort();
  controller = new AbortController();
  current = { ...query, ids: selectedIds };
  Object.assign(results, {
    rows: [],
    total: 0,
    missing: 0,
    next: "0",
    problem: "",
    state: "loading",
  });
  if (!canSearch()) return notify((results.state = "unasked"));
  await fetchResults(controller.signal);
}

export const loadMore = () => {
  controller = new AbortController();
  results.state = "more";
  return fetchResults(controller.signal);
};

async function fetchResults(signal) {
  notify();
  try {
    await retryWhileLoading(() => appendPage(signal));
    if (signal.aborted) return;
    results.state = results.rows.length ? "found" : "none";
  } catch (error) {
    if (signal.aborted) return;
    Object.assign(results, { state: "failed", problem: error.message });
  }
  notify();
}

async function appendPage(signal) {
  const result = await fetchPage(results.next, signal);
  if (signal.aborted) return;
  Object.assign(results, { total: result.total, next: result.next_cursor });
  results.rows.push(...result.data);
}

function fetchPage(cursor, signal) {
  if (current.ids) return fetchPageOfIds(current.ids, +cursor, signal);
  const { mode, q, sort, prompts, without } = current,
    params = { ...filterParams(current), sort, limit: PAGE_SIZE, cursor };
  // prompts go into the body, since URLs are logged
  if (mode === "prompt")
    return api("features/search", "POST", { ...params, prompts: [q.trim()] }, { signal });
  if (mode === "common")
    return api(
      "features/search",
      "POST",
      { ...params, prompts: splitLines(prompts), without: splitLines(without) },
      { signal },
    );
  return api(
    `features?${new URLSearchParams({ ...params, mode, q: q.trim() })}`,
    "GET",
    undefined,
    {
      signal,
    },
  );
}

function filterParams({ label, dose, kind, from, to, starred }) {
  const params = {
    labelled: { some: true, none: false }[label],
    kind: kind || null,
    starred: starred || null,
    calibrated: { measured: true, unmeasured: false }[dose],
    works: dose === "works" || null,
    min_density: fraction(from),
    max_density: fraction(to),
  };
  return Object.fromEntries(Object.entries(params).filter(([, value]) => value != null));
}
const fraction = (percent) => (percent === "" ? null : Math.min(1, Math.max(0, percent / 100)));

async function fetchPageOfIds(ids, start, signal) {
  const answers = await Promise.allSettled(
    ids
      .slice(start, start + PAGE_SIZE)
      .map((id) => api(featurePath(id), "GET", undefined, { signal })),
  );
  const broken = answers.find((one) => one.status === "rejected" && one.reason.status !== 404);
  if (broken) throw broken.reason;
  const data = answers.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  results.missing += answers.length - data.length;
  return {
    data,
    total: ids.length,
    next_cursor: start + PAGE_SIZE < ids.length ? start + PAGE_SIZE : null,
  };
}
