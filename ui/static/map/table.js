// The map as a table, for those who read rather than look: clusters, and in each its features. Knows the atlas.
import { atlas, called, membersOf } from "./map_data.js";
import { button, el } from "../lib/dom.js";
import { plus } from "../features/actions.js";

const FEW = 60;
const unfolded = new Map();

// `act` has open(i) and picked(indices); `mask` says which features are looked for, if any.
export function clusterTable(mask, act, redraw) {
  const found = atlas.clusters
    .map((cluster, c) => [cluster, c, membersOf(c, mask)])
    .filter(([, , members]) => members.length);
  if (!found.length)
    return el(
      "p",
      { class: "empty" },
      atlas.known < atlas.n ? "The names are still being read…" : "No feature matches.",
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
          el("th", { scope: "col" }, "All of it"),
        ),
      ),
      el(
        "tbody",
        {},
        found.map((row) => clusterRows(row, act, redraw)),
      ),
    ),
  );
}

function clusterRows([{ name }, c, members], act, redraw) {
  const open = unfolded.has(c),
    toggle = () => {
      open ? unfolded.delete(c) : unfolded.set(c, FEW);
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
      button("Choose", () => act.picked(members), {
        id: `choose ${c}`,
        "aria-label": `Choose all of ${name}`,
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
            featureList(members.slice(0, unfolded.get(c)), act),
            left(members, c, redraw),
          ),
        ),
      ]
    : [row];
}

function left(members, c, redraw) {
  const shown = unfolded.get(c);
  return members.length > shown
    ? button(
        `Show more (${shown} of ${members.length})`,
        () => {
          unfolded.set(c, shown + FEW * 4);
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
        button(called(i), (event) => act.open(i, event.currentTarget), {
          class: "plain",
          "data-key": `point ${i}`,
        }),
        el("code", {}, atlas.ids[i]),
        plus({ id: atlas.ids[i], label: atlas.labels[i] }),
      ),
    ),
  );
