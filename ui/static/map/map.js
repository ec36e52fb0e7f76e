// Map tab: the canvas with all features, the selection, and the table view.
import { addAllToSliders, hasRoomFor, onSaved } from "../features/actions.js";
import { createDrawer } from "../features/drawer.js";
import { button, disableWhen, el, icon, keepFocus, toast } from "../lib/dom.js";
import { presetsOnlyText } from "../lib/roles.js";
import { MAX_ROWS, onRedraw } from "../panel/slider_state.js";
import { openTab } from "../shell/header.js";
import { createCanvas } from "./canvas.js";
import { coloursByAmount, coloursByCluster, themeColours } from "./colours.js";
import {
  featureName,
  indexOf,
  invalidateMap,
  loadMap,
  mapData,
  maskIndices,
  matchMask,
  setLabel,
} from "./map_data.js";
import { clusterTable, featureList } from "./table.js";

const COLOURS = { cluster: "cluster", density: "density", most: "largest activation" },
  MAX_LISTED = 200;
let root,
  canvas,
  drawer,
  colours,
  featureToShow = null,
  selected = [],
  mask = null;
const view = { colour: "cluster", list: false, lasso: false, words: "" };
const $ = (selector) => root.querySelector(selector);

export function mount(section) {
  root = section;
  canvas = createCanvas({
    name: featureName,
    open: (i) => openPoint(i, canvas.canvas),
    picked: (list) => {
      setLasso(false);
      select(list);
    },
    looked: (i) => {
      $(".middle-feature").textContent = i < 0 ? "" : `Near the middle: ${featureName(i)}`;
    },
  });
  const stage = el(
    "div",
    { class: "stage card" },
    canvas.node,
    el(
      "div",
      { class: "zooms" },
      icon("+", "Zoom in", () => canvas.zoom(1.5)),
      icon("−", "Zoom out", () => canvas.zoom(1 / 1.5)),
      button("Reset", canvas.reset, { id: "map-reset", title: "Show all features (0)" }),
    ),
    el("div", { class: "legend" }),
    el("div", { class: "map-status", role: "status" }),
  );
  const split = el(
    "div",
    { class: "split" },
    el("div", { class: "shown" }, stage, el("div", { class: "table" })),
  );
  root.replaceChildren(
    el("h2", { class: "visually-hidden" }, "Map"),
    toolbar(),
    split,
    el(
      "p",
      { class: "muted keys", id: "map-keys" },
      "Drag to move, wheel or pinch to zoom, Shift and drag to select. Keyboard: arrows " +
        "move, + and − zoom, 0 resets, Enter opens the feature in the middle.",
    ),
    el("p", { class: "visually-hidden middle-feature", role: "status" }),
  );
  drawer = createDrawer(split, {
    more: (feature) =>
      button("In Features", () => openInFeatures({ feature: feature.id }), {
        "data-key": "to-features",
      }),
    shown: (id) => {
      canvas.mark(id ? indexOf(id) : -1);
    },
  });
  new MutationObserver(() => {
    colours = null;
    recolour();
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  document.addEventListener("fullscreenchange", () => {
    if (!document.fullscreenElement) setFullScreen(false);
  });
  root.addEventListener("keydown", onKey);
  onSaved((saved) => {
    const i = indexOf(saved.id);
    if (i >= 0) setLabel(i, saved.label);
  });
  onRedraw(() => selected.length && updateRoom());
}

// `how` may have a feature id to show, or a query to highlight.
export async function opened({ feature, q } = {}) {
  featureToShow = feature || null;
  if (q != null) {
    $("[data-key=map-find]").value = q;
    highlight(q);
  }
  showStatus("Loading the map…");
  try {
    await loadMap({ onPoints, onPage });
    showStatus(mapData.n ? "" : "There are no features to draw.");
    if (featureToShow) onPage();
  } catch (error) {
    showStatus(error.message, true);
  }
}

function showStatus(words, problem = false) {
  if (words && !problem && mapData.n) return;
  $(".map-status").replaceChildren(
    ...(words
      ? [
          el("p", { class: problem ? "problem" : "muted" }, words),
          problem
            ? button(
                "Try again",
                () => {
                  invalidateMap();
                  opened();
                },
                { id: "map-again" },
              )
            : "",
        ]
      : []),
  );
}

function onPoints() {
  select([]);
  showStatus("");
  canvas.show(mapData.points);
  recolour();
  canvas.canvas.setAttribute("aria-label", `Map of ${mapData.n.toLocaleString("en")} features`);
}

// Runs after each page of metadata.
function onPage() {
  recolour();
  if (view.words) highlight(view.words);
  if (view.list) drawTable();
  const i = featureToShow ? indexOf(featureToShow) : -1;
  if (i < 0) return;
  featureToShow = null;
  canvas.frame([i]);
  openPoint(i, canvas.canvas);
}

function recolour() {
  if (!mapData.n) return;
  colours ??= themeColours(root);
  const { codes, palette, low, high } =
    view.colour === "cluster"
      ? coloursByCluster(mapData.cluster, colours)
      : coloursByAmount(mapData[view.colour], mapData.known, colours);
  canvas.colour(codes, palette, colours.ink);
  canvas.names(mapData.clusters);
  const ends =
    view.colour === "density"
      ? [low, high].map((x) => `${+(100 * x).toPrecision(2)} %`)
      : [low, high].map((x) => (+x).toPrecision(3));
  $(".legend").replaceChildren(
    ...(low < high ? [ends[0], el("span", { class: "ramp", "aria-hidden": "true" }), ends[1]] : []),
  );
}

function toolbar() {
  const find = el("input", {
    type: "search",
    class: "grow",
    placeholder: "Highlight: words in labels, or an id",
    "aria-label": "Highlight features",
    "data-key": "map-find",
    oninput: () => highlight(find.value),
    onkeydown: (e) => {
      if (e.key === "Enter" && mask) {
        e.preventDefault();
        canvas.frame(maskIndices(mask));
      }
    },
  });
  const colour = el(
    "select",
    {
      id: "map-colour",
      onchange: () => {
        view.colour = colour.value;
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
    button("Lasso", () => setLasso(!view.lasso), {
      id: "map-lasso",
      "aria-pressed": "false",
      title: "Draw around features to select them (or hold Shift and drag)",
    }),
    button("As a table", () => setTableView(!view.list), {
      id: "map-list",
      "aria-pressed": "false",
      title: "List clusters and their features",
    }),
    button(
      "Full screen",
      () => setFullScreen(!document.body.classList.contains("map-fullscreen")),
      {
        id: "map-fullscreen",
        "aria-pressed": "false",
      },
    ),
  );
}

function highlight(words) {
  view.words = words.trim();
  mask = matchMask(words);
  const n = mask ? mask.reduce((a, b) => a + b, 0) : 0;
  $(".matches").textContent = !mask
    ? ""
    : `${n.toLocaleString("en")} ${n === 1 ? "feature" : "features"}`;
  canvas.only(mask);
  if (view.list) drawTable();
}

function setLasso(on) {
  view.lasso = on;
  setPressed("#map-lasso", on);
  canvas.lasso(on);
}

function setTableView(on) {
  view.list = on;
  setPressed("#map-list", on);
  $(".stage").hidden = on;
  for (const id of ["#map-lasso", "#map-colour"]) $(id).disabled = on;
  drawTable();
}

const setPressed = (selector, on) => $(selector).setAttribute("aria-pressed", String(on));

function drawTable() {
  keepFocus($(".table"), () =>
    $(".table").replaceChildren(
      ...(view.list ? [clusterTable(mask, { open: openPoint, picked: select }, drawTable)] : []),
    ),
  );
}

// Fills the window, and the screen where the browser has the Fullscreen API.
function setFullScreen(on) {
  document.body.classList.toggle("map-fullscreen", on);
  setPressed("#map-fullscreen", on);
  if (on)
    document.documentElement
      .requestFullscreen?.()
      .then(() => document.body.classList.contains("map-fullscreen") || document.exitFullscreen())
      .catch(() => {});
  else if (document.fullscreenElement) document.exitFullscreen();
}

function onKey(event) {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  const end = view.lasso
    ? () => setLasso(false)
    : document.body.classList.contains("map-fullscreen")
      ? () => setFullScreen(false)
      : selected.length
        ? () => select([])
        : null;
  if (!end) return;
  event.preventDefault();
  end();
}

function openPoint(i, back) {
  if (mapData.ids[i]) drawer.open(mapData.ids[i], { back });
}

function openInFeatures(options) {
  drawer.leave();
  setFullScreen(false);
  openTab("features", options);
}

function select(indices) {
  selected = indices.filter((i) => mapData.ids[i]);
  if (indices.length && drawer?.id) drawer.close();
  drawSelection();
  if (selected.length) $(".selection h3").focus();
}

function drawSelection() {
  $(".selection")?.remove();
  if (!selected.length) return;
  $(".split").append(selectionNode());
  updateRoom();
}

// Updates whether the selection still fits on the sliders.
function updateRoom() {
  const fits = hasRoomFor(selected.map((i) => mapData.ids[i]));
  $("#selection-add").disabled = !fits || Boolean(presetsOnlyText());
  $(".selection .most").hidden = fits || Boolean(presetsOnlyText());
}

function selectionNode() {
  const ids = selected.map((i) => mapData.ids[i]),
    n = selected.length.toLocaleString("en");
  const add = disableWhen(
    button(
      "Add all to sliders",
      () => addAllToSliders(ids).catch((error) => toast(error.message, { problem: true })),
      { id: "selection-add", class: "primary" },
    ),
    presetsOnlyText(),
  );
  return el(
    "aside",
    { class: "selection card", "aria-label": "Selected features" },
    el(
      "div",
      { class: "bar head" },
      el(
        "h3",
        { tabindex: -1, class: "grow" },
        `${n} ${selected.length === 1 ? "feature" : "features"}`,
      ),
      icon(
        "✕",
        "Clear the selection",
        () => {
          select([]);
          canvas.canvas.focus();
        },
        { id: "selection-close" },
      ),
    ),
    el(
      "div",
      { class: "bar" },
      add,
      button("Show in Features", () => openInFeatures({ ids }), { id: "selection-show" }),
    ),
    el("p", { class: "muted most" }, `At most ${MAX_ROWS} sliders: select fewer to add them all.`),
    featureList(selected.slice(0, MAX_LISTED), { open: openPoint }),
    selected.length > MAX_LISTED
      ? el(
          "p",
          { class: "muted" },
          `The first ${MAX_LISTED} are listed; the Features tab shows all of them.`,
        )
      : null,
  );
}
