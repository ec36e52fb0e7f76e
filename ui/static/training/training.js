// Train: the SAE's revisions with their gates, what each changed, drift, and the jobs. Confirms what changes what is served.
import { api } from "../lib/api.js";
import { lineChart } from "../lib/chart.js";
import { button, confirmed, el, keepFocus, off, openDialog, toast } from "../lib/dom.js";
import { isOpen } from "../shell/header.js";
import { gatesNode } from "./gates.js";
import { jobsNode, listed, refresh as refreshJobs } from "./jobs.js";
import { beyond } from "../lib/roles.js";

const FIGURES = ["explained", "L0", "dead"];
const EVERY = 5000,
  PUBLISH = "POST /v1/saes/{revision}/activate";
let root,
  revisions = null,
  drift = null,
  limits = null,
  failed = "",
  drawn = "";

export function mount(section) {
  root = section;
  root.replaceChildren(el("h2", {}, "Train"), el("p", { class: "empty" }, "Asking the server…"));
}

export async function opened() {
  await look();
  clearInterval(opened.timer);
  opened.timer = setInterval(() => isOpen("train") && look(), EVERY);
}

// Answers that were asked for before those that are shown are older than them.
let asked = 0,
  shown = 0;
async function look() {
  const mine = ++asked;
  try {
    const [saes, looks, now] = await Promise.all([
      api("saes"),
      api("training/drift?limit=200"),
      api("limits"),
      refreshJobs(),
    ]);
    if (mine < shown) return;
    [revisions, drift, limits, failed, shown] = [saes.data, looks, now, "", mine];
  } catch (error) {
    if (mine < shown) return;
    failed = error.message;
  }
  draw();
}

function draw() {
  if (
    root.querySelector("dialog[open]") ||
    (root.contains(document.activeElement) &&
      /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName))
  )
    return; // nobody is to be interrupted while typing
  const now = JSON.stringify([revisions, drift, limits?.training, failed, listed()]);
  if (now === drawn) return; // a button that is replaced while it is pressed is not clicked
  drawn = now;
  keepFocus(root, () =>
    root.replaceChildren(
      ...[
        el("h2", {}, "Train"),
        el(
          "p",
          { class: "lead" },
          "The SAE is kept up to date while it serves: an update learns from new text, has to pass its gates, and breaks no preset. Every revision can be served again.",
        ),
        failed
          ? el("div", { class: "problem", role: "alert" }, failed, " ", button("Try again", look))
          : null,
        revisions ? el("div", { class: "two" }, revisionsNode(), driftNode()) : null,
        jobsNode(limits, drift, draw),
      ].filter(Boolean),
    ),
  );
}

const figure = (value, digits = 3) => (value == null ? "–" : (+value).toFixed(digits));
const when = (seconds) =>
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
              `${when(r.created)}${r.parent ? `, from ${r.parent}` : ""}`,
            ),
      ),
      [
        figure(r.figures?.explained_variance),
        figure(r.figures?.l0, 1),
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
              button("Report", () => report(r), { id: `report-${r.id}` }),
              r.active
                ? null
                : off(
                    button("Serve", () => serve(r), { id: `serve-${r.id}` }),
                    beyond(PUBLISH),
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
        ? off(
            button(`Roll back to ${served.parent}`, () => rollback(served), { id: "rollback" }),
            beyond(PUBLISH),
          )
        : null,
    ),
    beyond(PUBLISH) && revisions.length > 1
      ? el("p", { class: "muted" }, beyond(PUBLISH, "Serving another one"))
      : null,
    el(
      "table",
      { id: "revisions" },
      el(
        "tr",
        {},
        el("th", {}, "Revision"),
        FIGURES.map((h) => el("th", { class: "number" }, h)),
        el("th", {}, el("span", { class: "away" }, "Acts")),
      ),
      rows,
    ),
  );
}

async function served(call, words) {
  try {
    await call();
    toast(words);
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await look();
}

async function serve(revision) {
  if (
    await confirmed(
      `Serve ${revision.id} from now on? Running replies end on what they began with; presets keep their features.`,
      `Serve ${revision.id}`,
    )
  )
    await served(() => api(`saes/${revision.id}/activate`, "POST"), `${revision.id} is served.`);
}

async function rollback({ id, parent }) {
  if (await confirmed(`Go back from ${id} to ${parent}?`, `Serve ${parent}`))
    await served(() => api("saes/rollback", "POST"), `${parent} is served again.`);
}

async function report(revision) {
  const body = el("div", { class: "report" }, el("p", { class: "muted" }, "Asking the server…"));
  openDialog(`Revision ${revision.id}`, body);
  try {
    const whole = await api(`saes/${revision.id}`),
      changes = whole.parent ? await api(`saes/${revision.id}/changes?limit=20`) : null;
    body.replaceChildren(
      ...[
        gatesNode(whole.report),
        changes
          ? changed(changes)
          : el("p", {}, "It came with the bundle: there is nothing before it."),
      ]
        .flat(2)
        .filter(Boolean),
    );
  } catch (error) {
    body.replaceChildren(el("p", { class: "problem", role: "alert" }, error.message));
  }
}

function changed(changes) {
  const names = (list) =>
    list.data.map((f) => f.label || f.id).join(", ") +
    (list.has_more ? ` and ${list.total - list.data.length} more` : "");
  const rows = [
    ["added", "new"],
    ["retired", "retired"],
    ["moved", "turned"],
    ["stale", "labels that may be stale"],
    ["relabelled", "labelled anew"],
    ["remeasured", "doses measured anew"],
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
    el("p", { class: "muted" }, `${changes.kept} features are the same.`),
    el("table", {}, rows),
    el("h3", {}, "Presets that it touches"),
    touched.length
      ? [
          el("p", { class: "muted" }, "They keep the features with which they were saved."),
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
        `The trainer looks every ${Math.round(drift.look_seconds / 60)} minutes how well the SAE explains the corpus and what people agreed to give. There is nothing to show yet.`,
      ),
    );
  const last = drift.data.at(-1),
    chart = (name, [a, b], words) =>
      lineChart({
        words: `${words}: corpus ${a.map(([, v]) => v.toFixed(2)).join(", ")}; live ${b.map(([, v]) => v.toFixed(2)).join(", ") || "none"}`,
        lines: [
          { kind: "second", points: b },
          { kind: "first", points: a },
        ].filter((l) => l.points.length),
      });
  return section(
    el("p", { class: "muted" }, "Explained variance, look by look"),
    chart("explained_variance", [corpus, live], "Explained variance"),
    el("p", { class: "muted" }, "L0"),
    chart("l0", [points("corpus", "l0"), points("live", "l0")], "L0"),
    el(
      "p",
      { class: "legend" },
      el("span", { class: "key first" }, "corpus"),
      el("span", { class: "key second" }, "live chats"),
    ),
    el(
      "p",
      { class: last.alarms.length ? "problem" : "muted", role: "status" },
      `${when(last.at)}: ${last.alarms.length ? last.alarms.join("; ") : "no alarm"}${last.did ? `, so: ${last.did}` : ""}`,
    ),
  );
}
