// Map data: coordinates in one request, ids, labels and clusters page by page.
import { api, API_URL, retryWhileLoading } from "../lib/api.js";

const PAGE_SIZE = 5000;
export const mapData = {
  tag: null,
  points: null,
  n: 0,
  ids: [],
  labels: [],
  texts: [],
  density: null,
  most: null,
  cluster: null,
  clusters: [],
  method: "",
  known: 0,
};
let loading = null;

// Fetches the points unless their ETag is the same; calls `onPoints` first and `onPage` after each
// page.
export async function loadMap({ onPoints, onPage }) {
  const answer = await retryWhileLoading(async () =>
    requireOk(
      await fetch(`${API_URL}/features-map?format=bin`).catch(() => {
        throw new Error("The server cannot be reached; is it still running?");
      }),
    ),
  );
  const tag = answer.headers.get("etag");
  if (tag && tag === mapData.tag) return loading;
  resetTo(tag, new Float32Array(await answer.arrayBuffer()));
  onPoints();
  const run = (loading = loadPages(onPage, () => loading === run));
  return run;
}

async function requireOk(answer) {
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(body.error?.message || "The server gave no reason."), {
    status: answer.status,
  });
}

function resetTo(tag, points) {
  const n = points.length / 2;
  Object.assign(mapData, {
    tag,
    points,
    n,
    ids: new Array(n),
    labels: new Array(n),
    texts: new Array(n),
    density: new Float32Array(n),
    most: new Float32Array(n),
    cluster: new Int16Array(n).fill(-1),
    clusters: [],
    known: 0,
  });
}

// The next page is requested while this one is processed.
const fetchPage = (cursor) => {
  const pending = api(`features-map/meta?limit=${PAGE_SIZE}&cursor=${cursor}`);
  pending.catch(() => {});
  return pending;
};

async function loadPages(onPage, isCurrent) {
  await null;
  for (let cursor = "0", pending = fetchPage(cursor); pending;) {
    const page = await pending;
    if (!isCurrent()) return;
    pending = page.next_cursor === null ? null : fetchPage(page.next_cursor);
    if (page.total !== mapData.n) {
      mapData.tag = null;
      throw new Error("The features have changed; open the map again.");
    }
    page.data.forEach((f, k) => addFeature(+cursor + k, f));
    Object.assign(mapData, {
      clusters: page.clusters,
      method: page.method,
      known: +cursor + page.data.length,
    });
    cursor = page.next_cursor;
    onPage();
  }
}

function addFeature(i, feature) {
  [mapData.ids[i], mapData.density[i], mapData.most[i], mapData.cluster[i]] = [
    feature.id,
    feature.density,
    feature.max_activation,
    feature.cluster,
  ];
  setLabel(i, feature.label);
}

export function setLabel(i, label) {
  mapData.labels[i] = label;
  mapData.texts[i] = `${label} ${mapData.ids[i]}`.toLocaleLowerCase();
}

export const invalidateMap = () => {
  mapData.tag = null;
};
export const featureName = (i) => mapData.labels[i] || mapData.ids[i] || "…";
export const indexOf = (id) => mapData.ids.indexOf(id);

// Mask of the points whose label or id contains all words; null for an empty query.
export function matchMask(query) {
  const terms = query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  if (!terms.length) return null;
  const mask = new Uint8Array(mapData.n);
  for (let i = 0; i < mapData.known; i++)
    if (terms.every((t) => mapData.texts[i].includes(t))) mask[i] = 1;
  return mask;
}

export function membersOf(cluster, mask = null) {
  const members = [];
  for (let i = 0; i < mapData.known; i++)
    if (mapData.cluster[i] === cluster && (!mask || mask[i])) members.push(i);
  return members;
}
export const maskIndices = (mask) => Array.from(mask.keys()).filter((i) => mask[i]);
