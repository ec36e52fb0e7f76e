// Strength sweep: one slider at several doses, with the reply and its coherence at each; the other
// sliders stay the same.
import { samplingFields } from "../chat/chat_request.js";
import { conversation } from "../chat/conversation.js";
import { verdictChip } from "../chat/reply.js";
import { lineChart } from "../lib/chart.js";
import { button, download, el, toast } from "../lib/dom.js";
import { presetsOnlyText } from "../lib/roles.js";
import { readFromTab, saveInTab } from "../lib/storage.js";
import { roundDose } from "../panel/dose.js";
import { state, steering } from "../panel/slider_state.js";
import { streamComparison } from "./comparison_stream.js";

const MAX_DOSES = 8;
const form = { feature: "", strengths: "0, 0.25, 0.5, 0.75, 1", ...readFromTab("sweep", {}) };
let sweep = null,
  running = null,
  container = null;

// Creates the section. The tab may be redrawn during a sweep; results go into the newest section.
export function sweepNode(question) {
  container = el("section", { class: "card", id: "sweep", "aria-label": "Strength sweep" });
  draw(question);
  return container;
}

function draw(question) {
  const row = state.rows.find((r) => r.id === form.feature) || state.rows[0];
  const head = [
    el("h3", {}, "Strength sweep"),
    el("p", { class: "muted" }, "One slider at several doses; the others stay the same."),
  ];
  if (presetsOnlyText())
    return container.replaceChildren(...head, el("p", { class: "empty" }, presetsOnlyText()));
  if (!row)
    return container.replaceChildren(
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
        form.feature = e.target.value;
        saveInTab("sweep", form);
      },
    },
    state.rows.map((r) => el("option", { value: r.id, selected: r.id === row.id }, r.label)),
  );
  const strengths = el("input", {
    type: "text",
    id: "sweep-strengths",
    value: form.strengths,
    "aria-label": "Doses, separated by commas",
    onchange: (e) => {
      form.strengths = e.target.value;
      saveInTab("sweep", form);
    },
  });
  const go = running
    ? button("Stop", () => running.abort())
    : button("Sweep", () => runSweep(question, choose.value), {
        id: "sweep-run",
        class: "primary",
      });
  container.replaceChildren(
    ...head,
    el(
      "div",
      { class: "bar" },
      choose,
      strengths,
      go,
      sweep && !running
        ? button("Export JSON", () => download("sweep.json", JSON.stringify(sweep, null, 2)))
        : "",
    ),
    ...(sweep ? resultsTable() : []),
  );
}

const parseDoses = () => [
  ...new Set(
    form.strengths
      .split(/[,;\s]+/)
      .filter(Boolean)
      .map(Number),
  ),
];

async function runSweep(question, id) {
  const all = parseDoses();
  if (
    !all.length ||
    all.length > MAX_DOSES ||
    !all.every((d) => Number.isFinite(d) && Math.abs(d) <= 2)
  )
    return toast(`Enter one to ${MAX_DOSES} doses between −2 and 2.`, { problem: true });
  form.feature = id;
  const now = steering(),
    variants = all.map((dose) => ({
      name: `dose ${dose}`,
      steering: {
        ...now,
        features: now.features.map((f) => (f.id === id ? { ...f, strength: dose } : f)),
      },
    }));
  const row = state.rows.find((r) => r.id === id);
  sweep = {
    feature: id,
    label: row.label,
    spot: row.spot,
    question: question(),
    seed: conversation.seed,
    doses: all,
    results: [],
  };
  running = new AbortController();
  draw(question);
  try {
    await streamComparison(
      {
        messages: [{ role: "user", content: question() }],
        variants,
        sampling: samplingFields(conversation.sampling, conversation.seed),
        signal: running.signal,
      },
      (results) => {
        sweep.results = results;
        drawGrowing();
      },
    );
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, { problem: true });
  }
  running = null;
  draw(question);
}

function drawGrowing() {
  for (const [i, cell] of [...container.querySelectorAll("td.reply")].entries())
    cell.textContent = sweep.results[i]?.text || "";
}

function resultsTable() {
  const rows = sweep.doses.map((dose, i) => {
    const result = sweep.results[i],
      coherence = result?.steering?.coherence;
    return el(
      "tr",
      {},
      el("td", { class: "number" }, roundDose(dose).toFixed(2)),
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
          ["dose", "reply", "coherence", "repeats", "nats per token"].map((h, i) =>
            el("th", { class: [0, 3, 4].includes(i) ? "number" : "" }, h),
          ),
        ),
        rows,
      ),
    ),
    surpriseChart(),
  ];
}

// Chart of the reply's surprise under the unsteered model by dose; where it rises, the text
// breaks.
function surpriseChart() {
  const points = sweep.doses
    .map((dose, i) => [dose, sweep.results[i]?.steering?.coherence])
    .filter(([, c]) => c)
    .map(([dose, c]) => [dose, -c.mean_logprob_unsteered])
    .sort((a, b) => a[0] - b[0]);
  if (points.length < 2) return "";
  const words =
    `Surprise of the default model at ${sweep.label}: ` +
    points.map(([d, s]) => `${s.toFixed(1)} nats per token at dose ${roundDose(d)}`).join(", ");
  return el(
    "figure",
    { class: "curve" },
    lineChart({
      lines: [{ kind: "first", points }],
      bands: sweep.spot ? [[sweep.spot.low, sweep.spot.high]] : [],
      description: words,
    }),
    el(
      "figcaption",
      { class: "muted" },
      "Surprise of the default model, nats per token, by dose; the band is the measured " +
        "sweet spot.",
    ),
  );
}
