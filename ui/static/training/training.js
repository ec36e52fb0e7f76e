// Train tab: SAE revisions with their gates and changes, drift, and jobs. Publishing asks for
// confirmation.
import { api } from "../lib/api.js";
import { lineChart } from "../lib/chart.js";
import {
  button,
  confirmDialog,
  disableWhen,
  el,
  keepFocus,
  openDialog,
  toast,
} from "../lib/dom.js";
import { missingRoleText } from "../lib/roles.js";
import { isOpen } from "../shell/header.js";
import { gatesNode } from "./gates.js";
import { jobList, jobsNode, refreshJobs } from "./jobs.js";

const FIGURES = ["explained", "L0", "dead"];
const REFRESH_MS = 5000,
  PUBLISH_ROUTE = "POST /v1/saes/{revision}/activate";
let root,
  revisions = null,
  drift = null,
  limits = null,
  problem = "",
  drawnState = "";

export function mount(section) {
  root = section;
  root.replaceChildren(el("h2", {}, "Train"), el("p", { class: "empty" }, "Loading…"));
}

export async function opened() {
  await refresh();
  clearInterval(opened.timer);
  opened.timer = setInterval(() => isOpen("train") && refresh(), REFRESH_MS);
}

// Ignores responses that were requested before those shown.
let lastFetch = 0,
  shownFetch = 0;
async function refresh() {
  const thisFetch = ++lastFetch;
  try {
    const [saes, driftNow, now] = await Promise.all([
      api("saes"),
      api("training/drift?limit=200"),
      api("limits"),
      refreshJobs(),
    ]);
    if (thisFetch < shownFetch) return;
    [revisions, drift, limits, problem, shownFetch] = [saes.data, driftNow, now, "", thisFetch];
  } catch (error) {
    if (thisFetch < shownFetch) return;
    problem = error.message;
  }
  draw();
}

function draw() {
  if (
    root.querySelector("dialog[open]") ||
    (root.contains(document.activeElement) &&
      /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName))
  )
    return; // no redraw while the user types
  const now = JSON.stringify([revisions, drift, limits?.training, problem, jobList()]);
  if (now === drawnState) return; // replacing a button while it is pressed would lose the click
  drawnState = now;
  keepFocus(root, () =>
    root.replaceChildren(
      ...[
        el("h2", {}, "Train"),
        el(
          "p",
          { class: "lead" },
          "The SAE is updated while it serves: an update trains on new text, must pass its " +
            "gates, and keeps all presets working. Every revision can be served again.",
        ),
        problem
          ? el(
              "div",
              { class: "problem", role: "alert" },
              problem,
              " ",
              button("Try again", refresh),
            )
          : null,
        revisions ? el("div", { class: "two-columns" }, revisionsNode(), driftNode()) : null,
        jobsNode(limits, drift, draw),
      ].filter(Boolean),
    ),
  );
}

const formatFigure = (value, digits = 3) => (value == null ? "–" : (+value).toFixed(digits));
const formatTime = (seconds) =>
  seconds
    ? new Date(typeof seconds === "number" ? seconds * 1000 : seconds).toLocaleString()
    : "shipped";

function revisionsNode() {
  const served = revisions.find((r) => r.active);
  const rows = [...revisions].reverse().map((r) =>
    el(
      "tr",
      { "aria-current": r.active ? "true" : null },
      el(
        "td",
        {},
        el("b", {}, r.id),
        r.active ? el("span", { class: "chip ok" }, "served") : null,
        r.error
          ? el("p", { class: "problem" }, r.error)
          : el(
              "p",
              { class: "muted" },
              `${formatTime(r.created)}${r.parent ? `, from ${r.parent}` : ""}`,
            ),
      ),
      [
        formatFigure(r.figures?.explained_variance),
        formatFigure(r.figures?.l0, 1),
        r.figures?.dead == null ? "–" : `${(100 * r.figures.dead).toFixed(1)} %`,
      ].map((v, i) => el("td", { class: "number", "data-label": FIGURES[i] }, v)),
      el(
        "td",
        {},
        r.error
          ? null
          : el(
              "div",
              { class: "bar" },
              button("Report", () => showReport(r), { id: `report-${r.id}` }),
              r.active
                ? null
                : disableWhen(
                    button("Serve", () => serveRevision(r), { id: `serve-${r.id}` }),
                    missingRoleText(PUBLISH_ROUTE),
                  ),
            ),
      ),
    ),
  );
  return el(
    "section",
    { class: "card scroll", "aria-label": "Revisions" },
    el(
      "div",
      { class: "bar" },
      el("h3", { class: "grow" }, "Revisions"),
      served?.parent
        ? disableWhen(
            button(`Roll back to ${served.parent}`, () => rollBack(served), { id: "rollback" }),
            missingRoleText(PUBLISH_ROUTE),
          )
        : null,
    ),
    missingRoleText(PUBLISH_ROUTE) && revisions.length > 1
      ? el("p", { class: "muted" }, missingRoleText(PUBLISH_ROUTE, "Serving another one"))
      : null,
    el(
      "table",
      { id: "revisions" },
      el(
        "tr",
        {},
        el("th", {}, "Revision"),
        FIGURES.map((h) => el("th", { class: "number" }, h)),
        el("th", {}, el("span", { class: "visually-hidden" }, "Acts")),
      ),
      rows,
    ),
  );
}

async function publishThen(call, words) {
  try {
    await call();
    toast(words);
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await refresh();
}

async function serveRevision(revision) {
  if (
    await confirmDialog(
      `Serve ${revision.id} from now on? Running replies finish with the old revision; ` +
        "presets keep their features.",
      `Serve ${revision.id}`,
    )
  )
    await publishThen(
      () => api(`saes/${revision.id}/activate`, "POST"),
      `${revision.id} is served.`,
    );
}

async function rollBack({ id, parent }) {
  if (await confirmDialog(`Go back from ${id} to ${parent}?`, `Serve ${parent}`))
    await publishThen(() => api("saes/rollback", "POST"), `${parent} is served again.`);
}

async function showReport(revision) {
  const body = el("div", { class: "report" }, el("p", { class: "muted" }, "Loading…"));
  openDialog(`Revision ${revision.id}`, body);
  try {
    const details = await api(`saes/${revision.id}`),
      changes = details.parent ? await api(`saes/${revision.id}/changes?limit=20`) : null;
    body.replaceChildren(
      ...[
        gatesNode(details.report),
        changes
          ? changesNodes(changes)
          : el("p", {}, "It came with the bundle; there is no earlier revision."),
      ]
        .flat(2)
        .filter(Boolean),
    );
  } catch (error) {
    body.replaceChildren(el("p", { class: "problem", role: "alert" }, error.message));
  }
}

function changesNodes(changes) {
  const names = (list) =>
    list.data.map((f) => f.label || f.id).join(", ") +
    (list.has_more ? ` and ${list.total - list.data.length} more` : "");
  const rows = [
    ["added", "new"],
    ["retired", "retired"],
    ["moved", "changed direction"],
    ["stale", "labels that may be stale"],
    ["relabelled", "relabelled"],
    ["remeasured", "doses remeasured"],
  ]
    .filter(([key]) => changes[key].total)
    .map(([key, words]) =>
      el(
        "tr",
        {},
        el("td", { class: "number" }, changes[key].total),
        el("td", {}, el("b", {}, words), " ", el("span", { class: "muted" }, names(changes[key]))),
      ),
    );
  const touched = changes.presets.data.map((p) =>
    el(
      "li",
      {},
      el("b", {}, p.name),
      `: ${p.features.map((f) => `${f.label || f.id} ${f.what.join(" and ")}`).join("; ")}`,
    ),
  );
  return [
    el("h3", {}, `What changed since ${changes.since}`),
    el("p", { class: "muted" }, `${changes.kept} features are unchanged.`),
    el("table", {}, rows),
    el("h3", {}, "Affected presets"),
    touched.length
      ? [
          el("p", { class: "muted" }, "They keep the features they were saved with."),
          el("ul", { id: "touched" }, touched),
        ]
      : el("p", { class: "muted", id: "touched" }, "None."),
  ];
}

function driftNode() {
  const section = (...content) =>
    el("section", { class: "card", "aria-label": "Drift" }, el("h3", {}, "Drift"), ...content);
  const points = (kind, name) =>
    drift.data.map((d, i) => [i, d[kind]?.[name]]).filter(([, v]) => v != null);
  const [corpus, live] = [
    points("corpus", "explained_variance"),
    points("live", "explained_variance"),
  ];
  if (corpus.length + live.length < 2)
    return section(
      el(
        "p",
        { class: "muted" },
        `Every ${Math.round(drift.look_seconds / 60)} minutes the trainer measures how ` +
          "well the SAE explains the corpus and the conversations that users gave. There are " +
          "no measurements yet.",
      ),
    );
  const last = drift.data.at(-1),
    chart = (name, [a, b]) =>
      lineChart({
        description:
          `${name}: corpus ${a.map(([, v]) => v.toFixed(2)).join(", ")}; live ` +
          (b.map(([, v]) => v.toFixed(2)).join(", ") || "none"),
        lines: [
          { kind: "second", points: b },
          { kind: "first", points: a },
        ].filter((l) => l.points.length),
      });
  return section(
    el("p", { class: "muted" }, "Explained variance by measurement"),
    chart("Explained variance", [corpus, live]),
    el("p", { class: "muted" }, "L0"),
    chart("L0", [points("corpus", "l0"), points("live", "l0")]),
    el(
      "p",
      { class: "legend" },
      el("span", { class: "key first" }, "corpus"),
      el("span", { class: "key second" }, "live chats"),
    ),
    el(
      "p",
      { class: last.alarms.length ? "problem" : "muted", role: "status" },
      `${formatTime(last.at)}: ` +
        (last.alarms.length ? last.alarms.join("; ") : "no alarm") +
        (last.did ? `, so: ${last.did}` : ""),
    ),
  );
}
