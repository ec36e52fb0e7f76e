// The Map tab: the canvas with all features, what is done with those that are chosen, and the same as a table.
import { atlas, called, forget, indexOf, load, masked, matches, name } from "./map_data.js";
import { clusterTable, featureList } from "./table.js";
import { byAmount, byCluster, inksOf } from "./colours.js";
import { button, el, icon, keepFocus, off, toast } from "../lib/dom.js";
import { drawerIn } from "../features/drawer.js";
import { open as openTab } from "../shell/header.js";
import { onSaved, roomFor, slideAll } from "../features/actions.js";
import { plane } from "./canvas.js";
import { onlyPersonas } from "../lib/roles.js";
import { MOST, onDraw } from "../panel/slider_state.js";

const COLOURS = { cluster: "cluster", density: "density", most: "largest activation" },
  LISTED = 200;
let root,
  map,
  drawer,
  inks,
  wanted = null,
  chosen = [],
  mask = null;
const shown = { colour: "cluster", list: false, lasso: false, words: "" };
const $ = (selector) => root.querySelector(selector);

export function mount(section) {
  root = section;
  map = plane({
    name: called,
    open: (i) => openPoint(i, map.canvas),
    picked: (list) => {
      lasso(false);
      pick(list);
    },
    looked: (i) => {
      $(".eye").textContent = i < 0 ? "" : `Near the middle: ${called(i)}`;
    },
  });
  const stage = el(
    "div",
    { class: "stage card" },
    map.node,
    el(
      "div",
      { class: "zooms" },
      icon("+", "Zoom in", () => map.zoom(1.5)),
      icon("−", "Zoom out", () => map.zoom(1 / 1.5)),
      button("Reset", map.reset, { id: "map-reset", title: "All features in sight (0)" }),
    ),
    el("div", { class: "legend" }),
    el("div", { class: "over-all", role: "status" }),
  );
  const split = el(
    "div",
    { class: "split" },
    el("div", { class: "shown" }, stage, el("div", { class: "table" })),
  );
  root.replaceChildren(
    el("h2", { class: "unseen" }, "Map"),
    bar(),
    split,
    el(
      "p",
      { class: "muted keys", id: "map-keys" },
      "Drag to move, wheel or pinch to zoom, Shift and drag to choose. By keyboard: arrows move, + and − zoom, 0 resets, Enter opens what is in the middle.",
    ),
    el("p", { class: "unseen eye", role: "status" }),
  );
  drawer = drawerIn(split, {
    more: (feature) =>
      button("In Features", () => leave({ feature: feature.id }), { "data-key": "to-features" }),
    shown: (id) => {
      map.mark(id ? indexOf(id) : -1);
    },
  });
  new MutationObserver(() => {
    inks = null;
    recolour();
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  document.addEventListener("fullscreenchange", () => {
    if (!document.fullscreenElement) whole(false);
  });
  root.addEventListener("keydown", onKey);
  onSaved((saved) => {
    const i = indexOf(saved.id);
    if (i >= 0) name(i, saved.label);
  });
  onDraw(() => chosen.length && room());
}

// `how` may name a feature to show, or words to look for.
export async function opened({ feature, q } = {}) {
  wanted = feature || null;
  if (q != null) {
    $("[data-key=map-find]").value = q;
    look(q);
  }
  say("Loading the map…");
  try {
    await load({ drawn: begin, named });
    say(atlas.n ? "" : "There are no features to draw.");
    if (wanted) named();
  } catch (error) {
    say(error.message, true);
  }
}

function say(words, problem = false) {
  if (words && !problem && atlas.n) return;
  $(".over-all").replaceChildren(
    ...(words
      ? [
          el("p", { class: problem ? "problem" : "muted" }, words),
          problem
            ? button(
                "Try again",
                () => {
                  forget();
                  opened();
                },
                { id: "map-again" },
              )
            : "",
        ]
      : []),
  );
}

function begin() {
  pick([]);
  say("");
  map.show(atlas.points);
  recolour();
  map.canvas.setAttribute("aria-label", `Map of ${atlas.n.toLocaleString("en")} features`);
}

// Another page of names has come.
function named() {
  recolour();
  if (shown.words) look(shown.words);
  if (shown.list) drawTable();
  const i = wanted ? indexOf(wanted) : -1;
  if (i < 0) return;
  wanted = null;
  map.frame([i]);
  openPoint(i, map.canvas);
}

function recolour() {
  if (!atlas.n) return;
  inks ??= inksOf(root);
  const { codes, palette, low, high } =
    shown.colour === "cluster"
      ? byCluster(atlas.cluster, inks)
      : byAmount(atlas[shown.colour], atlas.known, inks);
  map.colour(codes, palette, inks.ink);
  map.names(atlas.clusters);
  const ends =
    shown.colour === "density"
      ? [low, high].map((x) => `${+(100 * x).toPrecision(2)} %`)
      : [low, high].map((x) => (+x).toPrecision(3));
  $(".legend").replaceChildren(
    ...(low < high ? [ends[0], el("span", { class: "ramp", "aria-hidden": "true" }), ends[1]] : []),
  );
}

function bar() {
  const find = el("input", {
    type: "search",
    class: "grow",
    placeholder: "Highlight: words of labels, or an id",
    "aria-label": "Highlight features",
    "data-key": "map-find",
    oninput: () => look(find.value),
    onkeydown: (e) => {
      if (e.key === "Enter" && mask) {
        e.preventDefault();
        map.frame(masked(mask));
      }
    },
  });
  const colour = el(
    "select",
    {
      id: "map-colour",
      onchange: () => {
        shown.colour = colour.value;
        recolour();
      },
    },
    Object.entries(COLOURS).map(([value, words]) => el("option", { value }, words)),
  );
  return el(
    "div",
    { class: "bar tools" },
    find,
    el("span", { class: "muted matches", role: "status" }),
    el("label", {}, "Colour", colour),
    button("Lasso", () => lasso(!shown.lasso), {
      id: "map-lasso",
      "aria-pressed": "false",
      title: "Draw around features to choose them (or hold Shift and drag)",
    }),
    button("As a table", () => list(!shown.list), {
      id: "map-list",
      "aria-pressed": "false",
      title: "Clusters and their features in words",
    }),
    button("Full screen", () => whole(!document.body.classList.contains("map-whole")), {
      id: "map-whole",
      "aria-pressed": "false",
    }),
  );
}

function look(words) {
  shown.words = words.trim();
  mask = matches(words);
  const n = mask ? mask.reduce((a, b) => a + b, 0) : 0;
  $(".matches").textContent = !mask
    ? ""
    : `${n.toLocaleString("en")} ${n === 1 ? "feature" : "features"}`;
  map.only(mask);
  if (shown.list) drawTable();
}

function lasso(on) {
  shown.lasso = on;
  press("#map-lasso", on);
  map.lasso(on);
}

function list(on) {
  shown.list = on;
  press("#map-list", on);
  $(".stage").hidden = on;
  for (const id of ["#map-lasso", "#map-colour"]) $(id).disabled = on;
  drawTable();
}

const press = (selector, on) => $(selector).setAttribute("aria-pressed", String(on));

function drawTable() {
  keepFocus($(".table"), () =>
    $(".table").replaceChildren(
      ...(shown.list ? [clusterTable(mask, { open: openPoint, picked: pick }, drawTable)] : []),
    ),
  );
}

// The whole window where a browser has no full screen, and around it the full screen where it has.
function whole(on) {
  document.body.classList.toggle("map-whole", on);
  press("#map-whole", on);
  if (on)
    document.documentElement
      .requestFullscreen?.()
      .then(() => document.body.classList.contains("map-whole") || document.exitFullscreen())
      .catch(() => {});
  else if (document.fullscreenElement) document.exitFullscreen();
}

function onKey(event) {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  const end = shown.lasso
    ? () => lasso(false)
    : document.body.classList.contains("map-whole")
      ? () => whole(false)
      : chosen.length
        ? () => pick([])
        : null;
  if (!end) return;
  event.preventDefault();
  end();
}

function openPoint(i, back) {
  if (atlas.ids[i]) drawer.open(atlas.ids[i], { back });
}

function leave(how) {
  drawer.leave();
  whole(false);
  openTab("features", how);
}

function pick(indices) {
  chosen = indices.filter((i) => atlas.ids[i]);
  if (indices.length && drawer?.id) drawer.close();
  drawChosen();
  if (chosen.length) $(".chosen h3").focus();
}

function drawChosen() {
  $(".chosen")?.remove();
  if (!chosen.length) return;
  $(".split").append(chosenNode());
  room();
}

// Sliders come and go, and with them the room for more.
function room() {
  const fits = roomFor(chosen.map((i) => atlas.ids[i]));
  $("#chosen-add").disabled = !fits || Boolean(onlyPersonas());
  $(".chosen .most").hidden = fits || Boolean(onlyPersonas());
}

function chosenNode() {
  const ids = chosen.map((i) => atlas.ids[i]),
    n = chosen.length.toLocaleString("en");
  const add = off(
    button(
      "Add all to sliders",
      () => slideAll(ids).catch((error) => toast(error.message, { problem: true })),
      { id: "chosen-add", class: "primary" },
    ),
    onlyPersonas(),
  );
  return el(
    "aside",
    { class: "chosen card", "aria-label": "Chosen features" },
    el(
      "div",
      { class: "bar head" },
      el(
        "h3",
        { tabindex: -1, class: "grow" },
        `${n} ${chosen.length === 1 ? "feature" : "features"}`,
      ),
      icon(
        "✕",
        "Let them go",
        () => {
          pick([]);
          map.canvas.focus();
        },
        { id: "chosen-close" },
      ),
    ),
    el(
      "div",
      { class: "bar" },
      add,
      button("Show in Features", () => leave({ ids }), { id: "chosen-show" }),
    ),
    el("p", { class: "muted most" }, `${MOST} sliders are the most; choose fewer to add them all.`),
    featureList(chosen.slice(0, LISTED), { open: openPoint }),
    chosen.length > LISTED
      ? el("p", { class: "muted" }, `The first ${LISTED}; Features has them all.`)
      : null,
  );
}
