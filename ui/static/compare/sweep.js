// A sweep: one slider at several strengths, its replies and how they hold together. The other sliders stay as they are.
import { lineChart } from "../lib/chart.js";
import { tidy } from "../panel/dose.js";
import { button, download, el, toast } from "../lib/dom.js";
import { keepInTab, ofTab } from "../lib/storage.js";
import { verdictChip } from "../chat/reply.js";
import { onlyPersonas } from "../lib/roles.js";
import { state, steering } from "../panel/slider_state.js";
import { talk } from "../chat/conversation.js";
import { samplingFields } from "../chat/chat_request.js";
import { compared } from "./comparison_stream.js";

const MOST = 8;
const kept = { feature: "", strengths: "0, 0.25, 0.5, 0.75, 1", ...ofTab("sweep", {}) };
let found = null,
  running = null,
  place = null;

// The tab is drawn anew at any moment, also while a sweep runs: what comes of it is shown wherever the tab has it now.
export function sweepNode(question) {
  place = el("section", { class: "card", id: "sweep", "aria-label": "Strength sweep" });
  draw(question);
  return place;
}

function draw(question) {
  const row = state.rows.find((r) => r.id === kept.feature) || state.rows[0];
  const head = [
    el("h3", {}, "Strength sweep"),
    el("p", { class: "muted" }, "One slider at several doses, the others as they are."),
  ];
  if (onlyPersonas())
    return place.replaceChildren(...head, el("p", { class: "empty" }, onlyPersonas()));
  if (!row)
    return place.replaceChildren(
      ...head,
      el(
        "p",
        { class: "empty" },
        "No sliders yet: add a feature or choose a persona in the panel.",
      ),
    );
  const choose = el(
    "select",
    {
      "aria-label": "Slider to sweep",
      id: "sweep-feature",
      onchange: (e) => {
        kept.feature = e.target.value;
        keepInTab("sweep", kept);
      },
    },
    state.rows.map((r) => el("option", { value: r.id, selected: r.id === row.id }, r.label)),
  );
  const strengths = el("input", {
    type: "text",
    id: "sweep-strengths",
    value: kept.strengths,
    "aria-label": "Doses, separated by commas",
    onchange: (e) => {
      kept.strengths = e.target.value;
      keepInTab("sweep", kept);
    },
  });
  const go = running
    ? button("Stop", () => running.abort())
    : button("Sweep", () => run(question, choose.value), { id: "sweep-run", class: "primary" });
  place.replaceChildren(
    ...head,
    el(
      "div",
      { class: "bar" },
      choose,
      strengths,
      go,
      found && !running
        ? button("Export JSON", () => download("sweep.json", JSON.stringify(found, null, 2)))
        : "",
    ),
    ...(found ? shown() : []),
  );
}

const doses = () => [
  ...new Set(
    kept.strengths
      .split(/[,;\s]+/)
      .filter(Boolean)
      .map(Number),
  ),
];

async function run(question, id) {
  const all = doses();
  if (!all.length || all.length > MOST || !all.every((d) => Number.isFinite(d) && Math.abs(d) <= 2))
    return toast(`Give one to ${MOST} doses between −2 and 2.`, { problem: true });
  kept.feature = id;
  const now = steering(),
    variants = all.map((dose) => ({
      name: `dose ${dose}`,
      steering: {
        ...now,
        features: now.features.map((f) => (f.id === id ? { ...f, strength: dose } : f)),
      },
    }));
  const row = state.rows.find((r) => r.id === id);
  found = {
    feature: id,
    label: row.label,
    spot: row.spot,
    question: question(),
    seed: talk.seed,
    doses: all,
    results: [],
  };
  running = new AbortController();
  draw(question);
  try {
    await compared(
      {
        messages: [{ role: "user", content: question() }],
        variants,
        sampling: samplingFields(talk.sampling, talk.seed),
        signal: running.signal,
      },
      (results) => {
        found.results = results;
        fill();
      },
    );
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, { problem: true });
  }
  running = null;
  draw(question);
}

function fill() {
  for (const [i, cell] of [...place.querySelectorAll("td.reply")].entries())
    cell.textContent = found.results[i]?.text || "";
}

function shown() {
  const rows = found.doses.map((dose, i) => {
    const result = found.results[i],
      coherence = result?.steering?.coherence;
    return el(
      "tr",
      {},
      el("td", { class: "number" }, tidy(dose).toFixed(2)),
      el("td", { class: "reply" }, result?.text || "…"),
      el(
        "td",
        {},
        result?.problem ? el("span", { class: "problem" }, result.problem) : verdictChip(coherence),
      ),
      el("td", { class: "number" }, coherence ? `${Math.round(100 * coherence.repetition)} %` : ""),
      el("td", { class: "number" }, coherence ? coherence.mean_logprob_unsteered.toFixed(2) : ""),
    );
  });
  return [
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el(
          "tr",
          {},
          ["dose", "reply", "coherence", "repeats", "nats a token"].map((h, i) =>
            el("th", { class: [0, 3, 4].includes(i) ? "number" : "" }, h),
          ),
        ),
        rows,
      ),
    ),
    curve(),
  ];
}

// How unlikely the reply is to the default model, by dose: where it rises, the text breaks.
function curve() {
  const points = found.doses
    .map((dose, i) => [dose, found.results[i]?.steering?.coherence])
    .filter(([, c]) => c)
    .map(([dose, c]) => [dose, -c.mean_logprob_unsteered])
    .sort((a, b) => a[0] - b[0]);
  if (points.length < 2) return "";
  const words = `Surprise of the default model at ${found.label}: ${points.map(([d, s]) => `${s.toFixed(1)} nats a token at dose ${tidy(d)}`).join(", ")}`;
  return el(
    "figure",
    { class: "curve" },
    lineChart({
      lines: [{ kind: "first", points }],
      bands: found.spot ? [[found.spot.low, found.spot.high]] : [],
      words,
    }),
    el(
      "figcaption",
      { class: "muted" },
      "Surprise of the default model, nats a token, by dose; the band is the measured sweet spot.",
    ),
  );
}
