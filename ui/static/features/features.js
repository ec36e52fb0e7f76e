// Features tab: the search form with its filters, the result list, and keyboard navigation.
import { button, el, keepFocus } from "../lib/dom.js";
import { isOpen, openTab } from "../shell/header.js";
import { addButton, addToSliders, onSaved, starButton } from "./actions.js";
import { KINDS, doseText, formatDensity, labelSourceText } from "./descriptions.js";
import { createDrawer } from "./drawer.js";
import {
  MODES,
  activeFilters,
  clearFilters,
  loadMore,
  onResults,
  query,
  results,
  selectIds,
  selectedCount,
  setQuery,
  startSearch,
} from "./search.js";

const FILTERS = [
  [
    "label",
    "Label",
    [
      ["", "any"],
      ["some", "has one"],
      ["none", "has none"],
    ],
  ],
  [
    "dose",
    "Dose",
    [
      ["", "any"],
      ["works", "slider-ready"],
      ["measured", "measured"],
      ["unmeasured", "not measured"],
    ],
  ],
  ["kind", "Kind", [["", "any"], ["plain", "plain"], ...Object.keys(KINDS).map((k) => [k, k])]],
];
const SORTS = [
  ["score", "best first"],
  ["density", "most frequent"],
  ["max", "largest maximum"],
  ["label", "label, A–Z"],
];
let root,
  featureDrawer,
  activeRow = 0,
  timer,
  searchedOnce = false,
  filtersOpen = activeFilters() > 0;
const $ = (selector) => root.querySelector(selector);

export function mount(section) {
  root = section;
  const split = el(
    "div",
    { class: "split" },
    el(
      "div",
      { class: "feature-results" },
      statusBar(),
      el("div", { class: "list", role: "grid", "aria-label": "Features found" }),
      el("div", { class: "below-list" }),
    ),
  );
  root.replaceChildren(
    el("h2", { class: "visually-hidden" }, "Features"),
    el("form", { class: "card search", role: "search" }),
    split,
  );
  $(".search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    runSearch();
  });
  $(".list").addEventListener("keydown", onKey);
  $(".list").addEventListener("focusin", (event) =>
    activateRow(rows().indexOf(event.target.closest("[role=row]"))),
  );
  featureDrawer = createDrawer(split, {
    more: (feature) =>
      button(
        "On the map",
        () => {
          featureDrawer.leave();
          openTab("map", { feature: feature.id });
        },
        { "data-key": "to-map" },
      ),
    shown: (id) => {
      for (const row of rows()) row.classList.toggle("shown", row.dataset.id === id);
    },
  });
  document.addEventListener("keydown", onSlash);
  onResults(drawResults);
  onSaved(onFeatureSaved);
  drawForm();
}

// `how` may have a feature id to show, ids to list, or a query.
export function opened({ feature, ids, q } = {}) {
  if (ids) selectIds(ids);
  if (q != null) {
    setQuery({ mode: "text", q });
    drawForm();
  }
  if (ids || q != null || !searchedOnce) runSearch();
  if (feature) featureDrawer.open(feature);
}

function runSearch() {
  searchedOnce = true;
  activeRow = 0;
  startSearch();
}

function drawForm() {
  keepFocus($(".search"), () =>
    $(".search").replaceChildren(
      el(
        "div",
        { class: "modes", role: "group", "aria-label": "How to search" },
        Object.entries(MODES).map(([mode, [name]]) =>
          button(
            name,
            () => {
              setQuery({ mode });
              drawForm();
              runSearch();
            },
            { id: `mode ${mode}`, "aria-pressed": String(query.mode === mode) },
          ),
        ),
      ),
      el(
        "div",
        { class: "query" },
        ...fields(),
        query.mode === "text" || query.mode === "id"
          ? null
          : button("Search", null, { type: "submit", class: "primary", id: "search-go" }),
      ),
      el("p", { class: "muted hint" }, MODES[query.mode][1]),
      filtersNode(),
    ),
  );
}

function fields() {
  const box = (name, label, more) => {
    const node = el(more.rows ? "textarea" : "input", {
      "aria-label": label,
      placeholder: label,
      maxlength: 20000,
      id: `features-${name}`,
      "data-key": name,
      ...more,
      oninput: () => {
        setQuery({ [name]: node.value });
        if (!more.rows && (query.mode === "text" || query.mode === "id")) soon();
      },
    });
    node.value = query[name];
    return node;
  };
  if (query.mode === "common")
    return [
      box("prompts", "Messages that have it in common, one a line", { rows: 3 }),
      box("without", "But not these, one a line", { rows: 3 }),
    ];
  if (query.mode === "prompt") return [box("q", "A message to the model", { rows: 2 })];
  return [
    box(
      "q",
      {
        text: "Search features: words of labels and examples",
        meaning: "What should it be about?",
        id: "smollm2/12, or 12",
      }[query.mode],
      { type: "search" },
    ),
  ];
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(runSearch, 200);
}

function filtersNode() {
  const set = (changes) => {
    setQuery(changes);
    count();
    runSearch();
  };
  const chooser = ([name, label, options]) =>
    el(
      "label",
      { class: "field" },
      label,
      el(
        "select",
        { "data-key": name, onchange: (e) => set({ [name]: e.target.value }) },
        options.map(([value, words]) =>
          el("option", { value, selected: query[name] === value }, words),
        ),
      ),
    );
  const density = (name, label) =>
    el(
      "label",
      { class: "field" },
      label,
      el("input", {
        type: "number",
        min: 0,
        max: 100,
        step: "any",
        value: query[name],
        placeholder: "any",
        "data-key": name,
        onchange: (e) => set({ [name]: e.target.value }),
      }),
    );
  const starred = el("input", {
    type: "checkbox",
    checked: query.starred,
    "data-key": "starred",
    onchange: (e) => set({ starred: e.target.checked }),
  });
  const summary = el("summary", {});
  const count = () => {
    summary.textContent = activeFilters() ? `Filters: ${activeFilters()} on` : "Filters";
  };
  count();
  return el(
    "details",
    {
      class: "filter-section",
      open: filtersOpen,
      ontoggle: (e) => {
        filtersOpen = e.target.open;
      },
    },
    summary,
    el(
      "div",
      { class: "filters" },
      FILTERS.map(chooser),
      el("div", { class: "range" }, density("from", "Density from, %"), density("to", "to, %")),
      el("label", { class: "tick" }, starred, "Starred"),
    ),
  );
}

function statusBar() {
  const sort = el(
    "select",
    {
      "aria-label": "Sort",
      "data-key": "sort",
      onchange: () => {
        setQuery({ sort: sort.value });
        runSearch();
      },
    },
    SORTS.map(([value, words]) => el("option", { value, selected: query.sort === value }, words)),
  );
  return el(
    "div",
    { class: "bar status" },
    el("p", { role: "status", class: "grow muted" }),
    el(
      "span",
      { class: "muted keys", "aria-hidden": "true" },
      "/ search · ↑↓ move · Enter adds · Space shows",
    ),
    sort,
  );
}

const rows = () => [...root.querySelectorAll("[role=row][data-id]")];

function drawResults() {
  const { rows: list, state } = results,
    grid = $(".list");
  grid.setAttribute("aria-busy", String(state === "loading" || state === "more"));
  $(".status [role=status]").textContent = statusText();
  if (state !== "loading")
    keepFocus(grid, () =>
      grid.replaceChildren(...(list.length ? [headerRow(), ...list.map(rowNode)] : [])),
    );
  grid.hidden = !list.length && state !== "loading";
  $(".below-list").replaceChildren(...belowListNodes());
}

function statusText() {
  const {
      rows: { length },
      total,
      missing,
      state,
    } = results,
    n = (x) => x.toLocaleString("en");
  if (state === "loading") return "Searching…";
  if (!length) return "";
  const all = `${n(length)} of ${n(total)} ${total === 1 ? "feature" : "features"}`;
  return missing
    ? `${all}; ${missing} ${missing === 1 ? "no longer exists" : "no longer exist"}`
    : all;
}

function belowListNodes() {
  const {
      rows: { length },
      total,
      state,
      next,
      problem,
    } = results,
    empty = (...content) => el("div", { class: "empty" }, ...content);
  const clear =
    activeFilters() && !selectedCount()
      ? button(
          "Clear filters",
          () => {
            clearFilters();
            drawForm();
            runSearch();
          },
          { id: "unfilter" },
        )
      : null;
  const all = selectedCount()
    ? button(
        "Search again",
        () => {
          selectIds(null);
          runSearch();
        },
        { id: "show-all" },
      )
    : null;
  if (state === "failed")
    return [
      empty(
        el("p", { class: "problem", role: "alert" }, problem),
        button("Try again", length ? loadMore : runSearch, { id: "retry" }),
      ),
    ];
  if (state === "unasked")
    return [
      empty(
        el(
          "p",
          {},
          {
            common: "Enter two or more messages, one per line.",
            prompt: "Enter a message and press Search.",
            meaning: "Describe the meaning and press Search.",
            id: "Enter an id or a number.",
          }[query.mode],
        ),
      ),
    ];
  if (state === "none" && next === null) return [empty(el("p", {}, noMatchText()), clear, all)];
  if (next === null || state === "loading") return [all].filter(Boolean);
  const left = `Show more (${length.toLocaleString("en")} of ${total.toLocaleString("en")})`;
  return [
    button(state === "more" ? "Loading…" : left, loadMore, {
      id: "more",
      disabled: state === "more",
    }),
    all,
  ].filter(Boolean);
}

function noMatchText() {
  if (selectedCount()) return "None of these features exists any more.";
  return query.mode === "text" && !query.q.trim()
    ? "No feature matches the filters."
    : query.mode === "common"
      ? "These messages have no feature in common."
      : `No feature matches “${query.q.trim().slice(0, 80)}”.`;
}

const headerRow = () =>
  el(
    "div",
    { role: "row", class: "titles" },
    ["Feature", "Density", "Label", "Dose", "Actions"].map((name) =>
      el("span", { role: "columnheader" }, name),
    ),
  );

function rowNode(feature, i) {
  const tab = i === activeRow ? 0 : -1,
    cell = (kind, ...content) => el("div", { role: "gridcell", class: kind }, ...content);
  const acts = [addButton(feature), starButton(feature)],
    open = button(
      feature.label || "no label",
      () => featureDrawer.open(feature.id, { back: node }),
      {
        class: `plain${feature.label ? "" : " quiet"}`,
        id: `open ${feature.id}`,
        title: feature.label,
      },
    );
  const node = el(
    "div",
    {
      role: "row",
      class: `feature${featureDrawer.id === feature.id ? " shown" : ""}`,
      tabindex: tab,
      "data-id": feature.id,
      "data-key": `row ${feature.id}`,
    },
    cell(
      "feature-cell",
      open,
      el(
        "span",
        { class: "under" },
        el("code", {}, feature.id),
        feature.score && query.mode !== "id" && query.mode !== "text" && !selectedCount()
          ? el("span", {}, `score ${feature.score.toPrecision(2)}`)
          : null,
        feature.stale
          ? el(
              "span",
              { class: "mark", title: "The feature's direction has changed since it was labelled" },
              "label may be stale",
            )
          : null,
        feature.kind.map((k) => el("span", { class: "mark", title: KINDS[k] }, k)),
        feature.note ? el("span", { title: feature.note }, "has a note") : null,
      ),
    ),
    cell("density", formatDensity(feature)),
    cell("source", labelSourceText(feature)),
    cell(`dose-cell${feature.sweet_spot ? " good" : ""}`, doseText(feature)),
    cell("acts", acts),
  );
  for (const b of [open, ...acts]) b.tabIndex = tab;
  return node;
}

// Roving tabindex: only the active row is a Tab stop.
function activateRow(index) {
  if (index < 0 || index === activeRow) return;
  activeRow = index;
  rows().forEach((row, i) => {
    for (const node of [row, ...row.querySelectorAll("button")])
      node.tabIndex = i === activeRow ? 0 : -1;
  });
}

function onKey(event) {
  const row = event.target.closest("[role=row]"),
    list = rows(),
    index = list.indexOf(row);
  const to = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: list.length - 1 }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey || index < 0) return;
  if (to !== undefined) {
    event.preventDefault();
    return to < 0 ? searchBox()?.focus() : list[Math.min(to, list.length - 1)].focus();
  }
  const feature = results.rows[index],
    act =
      event.target === row &&
      {
        Enter: () => addToSliders(feature),
        " ": () => featureDrawer.open(feature.id, { back: row }),
      }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

const searchBox = () => $(".query input, .query textarea");

function onSlash(event) {
  if (!isOpen("features") || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.(
    "textarea, select, input:not([type=checkbox], [type=range])",
  );
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    searchBox().select();
  }
  if (
    event.key === "ArrowDown" &&
    event.target === searchBox() &&
    event.target.tagName === "INPUT"
  ) {
    event.preventDefault();
    rows()[activeRow]?.focus();
  }
}

function onFeatureSaved(saved) {
  const i = results.rows.findIndex((f) => f.id === saved.id);
  if (i < 0) return;
  results.rows[i] = { ...results.rows[i], ...saved };
  keepFocus($(".list"), () => rows()[i]?.replaceWith(rowNode(results.rows[i], i)));
}
