// The Features tab: what is searched and how, the list, and the keys to go through it. What is looked for is search's.
import { drawerIn } from "./drawer.js";
import { button, el, keepFocus } from "../lib/dom.js";
import { isOpen, open as openTab } from "../shell/header.js";
import { doseWords, KINDS, nameOf, share, sourceWords } from "./descriptions.js";
import { onSaved, plus, slide, star } from "./actions.js";
import {
  askable,
  chosen,
  filters,
  find,
  found,
  MODES,
  more,
  onFound,
  unfilter,
  want,
  wanted,
  wantIds,
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
      ["works", "works"],
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
  drawer,
  at = 0,
  timer,
  asked = false,
  unfolded = filters() > 0;
const $ = (selector) => root.querySelector(selector);

export function mount(section) {
  root = section;
  const split = el(
    "div",
    { class: "split" },
    el(
      "div",
      { class: "found" },
      status(),
      el("div", { class: "list", role: "grid", "aria-label": "Features found" }),
      el("div", { class: "below" }),
    ),
  );
  root.replaceChildren(
    el("h2", { class: "unseen" }, "Features"),
    el("form", { class: "card search", role: "search" }),
    split,
  );
  $(".search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    search();
  });
  $(".list").addEventListener("keydown", onKey);
  $(".list").addEventListener("focusin", (event) =>
    choose(rows().indexOf(event.target.closest("[role=row]"))),
  );
  drawer = drawerIn(split, {
    more: (feature) =>
      button(
        "On the map",
        () => {
          drawer.leave();
          openTab("map", { feature: feature.id });
        },
        { "data-key": "to-map" },
      ),
    shown: (id) => {
      for (const row of rows()) row.classList.toggle("shown", row.dataset.id === id);
    },
  });
  document.addEventListener("keydown", onSlash);
  onFound(draw);
  onSaved(changed);
  form();
}

// `how` may name a feature to show, ids to list, or words to look for.
export function opened({ feature, ids, q } = {}) {
  if (ids) wantIds(ids);
  if (q != null) {
    want({ mode: "text", q });
    form();
  }
  if (ids || q != null || !asked) search();
  if (feature) drawer.open(feature);
}

function search() {
  asked = true;
  at = 0;
  find();
}

function form() {
  keepFocus($(".search"), () =>
    $(".search").replaceChildren(
      el(
        "div",
        { class: "modes", role: "group", "aria-label": "How to search" },
        Object.entries(MODES).map(([mode, [name]]) =>
          button(
            name,
            () => {
              want({ mode });
              form();
              search();
            },
            { id: `mode ${mode}`, "aria-pressed": String(wanted.mode === mode) },
          ),
        ),
      ),
      el(
        "div",
        { class: "query" },
        ...fields(),
        wanted.mode === "text" || wanted.mode === "id"
          ? null
          : button("Search", null, { type: "submit", class: "primary", id: "search-go" }),
      ),
      el("p", { class: "muted hint" }, MODES[wanted.mode][1]),
      narrowing(),
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
        want({ [name]: node.value });
        if (!more.rows && (wanted.mode === "text" || wanted.mode === "id")) soon();
      },
    });
    node.value = wanted[name];
    return node;
  };
  if (wanted.mode === "common")
    return [
      box("prompts", "Messages that have it in common, one a line", { rows: 3 }),
      box("without", "But not these, one a line", { rows: 3 }),
    ];
  if (wanted.mode === "prompt") return [box("q", "A message to the model", { rows: 2 })];
  return [
    box(
      "q",
      {
        text: "Search features: words of labels and examples",
        meaning: "What should it be about?",
        id: "harbor/12, or 12",
      }[wanted.mode],
      { type: "search" },
    ),
  ];
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(search, 200);
}

function narrowing() {
  const set = (changes) => {
    want(changes);
    count();
    search();
  };
  const chooser = ([name, label, of]) =>
    el(
      "label",
      { class: "field" },
      label,
      el(
        "select",
        { "data-key": name, onchange: (e) => set({ [name]: e.target.value }) },
        of.map(([value, words]) =>
          el("option", { value, selected: wanted[name] === value }, words),
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
        value: wanted[name],
        placeholder: "any",
        "data-key": name,
        onchange: (e) => set({ [name]: e.target.value }),
      }),
    );
  const starred = el("input", {
    type: "checkbox",
    checked: wanted.starred,
    "data-key": "starred",
    onchange: (e) => set({ starred: e.target.checked }),
  });
  const summary = el("summary", {});
  const count = () => {
    summary.textContent = filters() ? `Filters: ${filters()} on` : "Filters";
  };
  count();
  return el(
    "details",
    {
      class: "narrowing",
      open: unfolded,
      ontoggle: (e) => {
        unfolded = e.target.open;
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

function status() {
  const sort = el(
    "select",
    {
      "aria-label": "Sort",
      "data-key": "sort",
      onchange: () => {
        want({ sort: sort.value });
        search();
      },
    },
    SORTS.map(([value, words]) => el("option", { value, selected: wanted.sort === value }, words)),
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

function draw() {
  const { rows: list, state } = found,
    grid = $(".list");
  grid.setAttribute("aria-busy", String(state === "loading" || state === "more"));
  $(".status [role=status]").textContent = words();
  if (state !== "loading")
    keepFocus(grid, () =>
      grid.replaceChildren(...(list.length ? [titles(), ...list.map(rowNode)] : [])),
    );
  grid.hidden = !list.length && state !== "loading";
  $(".below").replaceChildren(...below());
}

function words() {
  const {
      rows: { length },
      total,
      missing,
      state,
    } = found,
    n = (x) => x.toLocaleString("en");
  if (state === "loading") return "Searching…";
  if (!length) return "";
  const all = `${n(length)} of ${n(total)} ${total === 1 ? "feature" : "features"}`;
  return missing ? `${all}; ${missing} ${missing === 1 ? "is" : "are"} not there any more` : all;
}

function below() {
  const {
      rows: { length },
      total,
      state,
      next,
      problem,
    } = found,
    empty = (...content) => el("div", { class: "empty" }, ...content);
  const clear =
    filters() && !chosen()
      ? button(
          "Without filters",
          () => {
            unfilter();
            form();
            search();
          },
          { id: "unfilter" },
        )
      : null;
  const all = chosen()
    ? button(
        "Search again",
        () => {
          wantIds(null);
          search();
        },
        { id: "unchoose" },
      )
    : null;
  if (state === "failed")
    return [
      empty(
        el("p", { class: "problem", role: "alert" }, problem),
        button("Try again", length ? more : search, { id: "again" }),
      ),
    ];
  if (state === "unasked")
    return [
      empty(
        el(
          "p",
          {},
          {
            common: "Write two or more messages, one a line.",
            prompt: "Write a message and press Search.",
            meaning: "Say what it should be about and press Search.",
            id: "Write an id or a number.",
          }[wanted.mode],
        ),
      ),
    ];
  if (state === "none" && next === null) return [empty(el("p", {}, nothing()), clear, all)];
  if (next === null || state === "loading") return [all].filter(Boolean);
  const left = `Show more (${length.toLocaleString("en")} of ${total.toLocaleString("en")})`;
  return [
    button(state === "more" ? "Loading…" : left, more, { id: "more", disabled: state === "more" }),
    all,
  ].filter(Boolean);
}

function nothing() {
  if (chosen()) return "None of these features is there any more.";
  return wanted.mode === "text" && !wanted.q.trim()
    ? "No feature is like that."
    : wanted.mode === "common"
      ? "These messages have no feature in common."
      : `No feature matches “${wanted.q.trim().slice(0, 80)}”.`;
}

const titles = () =>
  el(
    "div",
    { role: "row", class: "titles" },
    ["Feature", "Density", "Label", "Dose", "Actions"].map((name) =>
      el("span", { role: "columnheader" }, name),
    ),
  );

function rowNode(feature, i) {
  const tab = i === at ? 0 : -1,
    cell = (kind, ...content) => el("div", { role: "gridcell", class: kind }, ...content);
  const acts = [plus(feature), star(feature)],
    open = button(feature.label || "no label", () => drawer.open(feature.id, { back: node }), {
      class: `plain${feature.label ? "" : " quiet"}`,
      id: `open ${feature.id}`,
      title: feature.label,
    });
  const node = el(
    "div",
    {
      role: "row",
      class: `feature${drawer.id === feature.id ? " shown" : ""}`,
      tabindex: tab,
      "data-id": feature.id,
      "data-key": `row ${feature.id}`,
    },
    cell(
      "what",
      open,
      el(
        "span",
        { class: "under" },
        el("code", {}, feature.id),
        feature.score && wanted.mode !== "id" && wanted.mode !== "text" && !chosen()
          ? el("span", {}, `score ${feature.score.toPrecision(2)}`)
          : null,
        feature.stale
          ? el(
              "span",
              { class: "mark", title: "The feature has turned since it was labelled" },
              "label may be stale",
            )
          : null,
        feature.kind.map((k) => el("span", { class: "mark", title: KINDS[k] }, k)),
        feature.note ? el("span", { title: feature.note }, "has a note") : null,
      ),
    ),
    cell("density", share(feature)),
    cell("source", sourceWords(feature)),
    cell(`dose-of${feature.sweet_spot ? " good" : ""}`, doseWords(feature)),
    cell("acts", acts),
  );
  for (const b of [open, ...acts]) b.tabIndex = tab;
  return node;
}

// One row at a time is in the order of Tab.
function choose(index) {
  if (index < 0 || index === at) return;
  at = index;
  rows().forEach((row, i) => {
    for (const node of [row, ...row.querySelectorAll("button")]) node.tabIndex = i === at ? 0 : -1;
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
    return to < 0 ? box()?.focus() : list[Math.min(to, list.length - 1)].focus();
  }
  const feature = found.rows[index],
    act =
      event.target === row &&
      { Enter: () => slide(feature), " ": () => drawer.open(feature.id, { back: row }) }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

const box = () => $(".query input, .query textarea");

function onSlash(event) {
  if (!isOpen("features") || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.(
    "textarea, select, input:not([type=checkbox], [type=range])",
  );
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    box().select();
  }
  if (event.key === "ArrowDown" && event.target === box() && event.target.tagName === "INPUT") {
    event.preventDefault();
    rows()[at]?.focus();
  }
}

function changed(saved) {
  const i = found.rows.findIndex((f) => f.id === saved.id);
  if (i < 0) return;
  found.rows[i] = { ...found.rows[i], ...saved };
  keepFocus($(".list"), () => rows()[i]?.replaceWith(rowNode(found.rows[i], i)));
}
