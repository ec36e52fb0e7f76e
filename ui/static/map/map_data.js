// What the map knows: points at once, and what they are called, page by page. Knows the API and no elements.
import { api, BASE, whenReady } from "../lib/api.js";

const PAGE = 5000;
export const atlas = {
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

// Fetches the points if they are others than before; tells `drawn` at once and `named` after each page.
export async function load({ drawn, named }) {
  const answer = await whenReady(async () =>
    checked(
      await fetch(`${BASE}/features-map?format=bin`).catch(() => {
        throw new Error("The server cannot be reached; is it still running?");
      }),
    ),
  );
  const tag = answer.headers.get("etag");
  if (tag && tag === atlas.tag) return loading;
  begin(tag, new Float32Array(await answer.arrayBuffer()));
  drawn();
  const mine = (loading = pages(named, () => loading === mine));
  return mine;
}

async function checked(answer) {
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(told.error?.message || "The server gave no reason."), {
    status: answer.status,
  });
}

function begin(tag, points) {
  const n = points.length / 2;
  Object.assign(atlas, {
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

// The next page is on its way while this one is taken in.
const page = (cursor) => {
  const asked = api(`features-map/meta?limit=${PAGE}&cursor=${cursor}`);
  asked.catch(() => {});
  return asked;
};

async function pages(named, current) {
  await null;
  for (let cursor = "0", asked = page(cursor); asked;) {
    const got = await asked;
    if (!current()) return;
    asked = got.next_cursor === null ? null : page(got.next_cursor);
    if (got.total !== atlas.n) {
      atlas.tag = null;
      throw new Error("The features were changed meanwhile; open the map again.");
    }
    got.data.forEach((f, k) => take(+cursor + k, f));
    Object.assign(atlas, {
      clusters: got.clusters,
      method: got.method,
      known: +cursor + got.data.length,
    });
    cursor = got.next_cursor;
    named();
  }
}

function take(i, feature) {
  [atlas.ids[i], atlas.density[i], atlas.most[i], atlas.cluster[i]] = [
    feature.id,
    feature.density,
    feature.max_activation,
    feature.cluster,
  ];
  name(i, feature.label);
}

export function name(i, label) {
  atlas.labels[i] = label;
  atlas.texts[i] = `${label} ${atlas.ids[i]}`.toLocaleLowerCase();
}

export const forget = () => {
  atlas.tag = null;
};
export const called = (i) => atlas.labels[i] || atlas.ids[i] || "…";
export const indexOf = (id) => atlas.ids.indexOf(id);

// Which points' labels or ids have all the words; null if none are looked for.
export function matches(words) {
  const terms = words.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  if (!terms.length) return null;
  const mask = new Uint8Array(atlas.n);
  for (let i = 0; i < atlas.known; i++)
    if (terms.every((t) => atlas.texts[i].includes(t))) mask[i] = 1;
  return mask;
}

export function membersOf(cluster, mask = null) {
  const found = [];
  for (let i = 0; i < atlas.known; i++)
    if (atlas.cluster[i] === cluster && (!mask || mask[i])) found.push(i);
  return found;
}
export const masked = (mask) => Array.from(mask.keys()).filter((i) => mask[i]);
