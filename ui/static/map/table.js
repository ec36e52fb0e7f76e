// Map table: clusters and their features, the accessible equivalent of the canvas.
import { addButton } from "../features/actions.js";
import { button, el } from "../lib/dom.js";
import { featureName, mapData, membersOf } from "./map_data.js";

const INITIAL_ROWS = 60;
const openClusters = new Map();

// `act` has open(i) and picked(indices); `mask` limits the features, if given.
export function clusterTable(mask, act, redraw) {
  const rows = mapData.clusters
    .map((cluster, c) => [cluster, c, membersOf(c, mask)])
    .filter(([, , members]) => members.length);
  if (!rows.length)
    return el(
      "p",
      { class: "empty" },
      mapData.known < mapData.n ? "The labels are still loading…" : "No feature matches.",
    );
  return el(
    "div",
    { class: "card clusters" },
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "Cluster"),
          el("th", { scope: "col", class: "number" }, "Features"),
          el("th", { scope: "col" }, "All of them"),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) => clusterRows(row, act, redraw)),
      ),
    ),
  );
}

function clusterRows([{ name }, c, members], act, redraw) {
  const open = openClusters.has(c),
    toggle = () => {
      open ? openClusters.delete(c) : openClusters.set(c, INITIAL_ROWS);
      redraw();
    };
  const row = el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      button(`${open ? "▾" : "▸"} ${name}`, toggle, {
        id: `cluster ${c}`,
        class: "plain",
        "aria-expanded": String(open),
      }),
    ),
    el("td", { class: "number" }, members.length.toLocaleString("en")),
    el(
      "td",
      {},
      button("Select", () => act.picked(members), {
        id: `choose ${c}`,
        "aria-label": `Select all of ${name}`,
      }),
    ),
  );
  return open
    ? [
        row,
        el(
          "tr",
          {},
          el(
            "td",
            { colspan: 3 },
            featureList(members.slice(0, openClusters.get(c)), act),
            moreButton(members, c, redraw),
          ),
        ),
      ]
    : [row];
}

function moreButton(members, c, redraw) {
  const shown = openClusters.get(c);
  return members.length > shown
    ? button(
        `Show more (${shown} of ${members.length})`,
        () => {
          openClusters.set(c, shown + INITIAL_ROWS * 4);
          redraw();
        },
        { id: `more ${c}` },
      )
    : null;
}

export const featureList = (indices, act) =>
  el(
    "ul",
    { class: "points" },
    indices.map((i) =>
      el(
        "li",
        {},
        button(featureName(i), (event) => act.open(i, event.currentTarget), {
          class: "plain",
          "data-key": `point ${i}`,
        }),
        el("code", {}, mapData.ids[i]),
        addButton({ id: mapData.ids[i], label: mapData.labels[i] }),
      ),
    ),
  );
