// Feature facts: the drawer's sections for figures, doses, examples, logits, neighbours and
// attribution.
import { conversation } from "../chat/conversation.js";
import { api, modelId } from "../lib/api.js";
import { barChart, lineChart } from "../lib/chart.js";
import { button, el } from "../lib/dom.js";
import { missingRoleText } from "../lib/roles.js";
import { roundDose } from "../panel/dose.js";
import {
  doseCurve,
  effectUnit,
  formatDensity,
  formatRange,
  KINDS,
  labelSourceText,
  measurementText,
} from "./descriptions.js";

const section = (title, ...content) =>
  el("section", { class: "fact" }, el("h3", {}, title), ...content);
const mutedText = (text) => el("p", { class: "muted" }, text);
const formatNumber = (x) => (x ? +x.toPrecision(3) : 0).toLocaleString("en");

export function figuresNode(feature) {
  const { label_scores: scores } = feature;
  const rows = [
    ["Density", formatDensity(feature)],
    [
      "Largest activation",
      feature.max_activation ? formatNumber(feature.max_activation) : "not seen",
    ],
    ["Typical maximum", feature.typical_max ? formatNumber(feature.typical_max) : "not seen"],
    ["Layer", feature.layer],
    ["Label", labelSourceText(feature) + editedText(feature)],
    scores && ["The label predicts", scoreText(scores)],
    feature.output_score != null && ["Output score", formatNumber(feature.output_score)],
  ].filter(Boolean);
  return el(
    "div",
    {},
    el(
      "dl",
      { class: "figures" },
      rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    feature.stale
      ? el(
          "p",
          { class: "flag" },
          "⚠ The label may be stale: the feature's direction has changed since it was labelled.",
        )
      : null,
    feature.kind.map((kind) => el("p", { class: "flag" }, `${kind}: ${KINDS[kind]}`)),
  );
}

const editedText = ({ edited }) =>
  edited?.label != null && edited.before?.label ? `, instead of “${edited.before.label}”` : "";
const scoreText = ({ detection, fuzzing, n }) =>
  `texts ${Math.round(100 * detection)} ` +
  `%${fuzzing == null ? "" : `, tokens ${Math.round(100 * fuzzing)} %`} right, of ${n} ` +
  "(guessing: 50 %)";

export function doseSection(feature) {
  const curve = doseCurve(feature),
    text = measurementText(feature);
  return section(
    "Dose",
    curve.length
      ? [curveChart(feature, curve), chartLegend(feature), mutedText(text), curveTable(curve)]
      : mutedText(text),
    effectWords(feature),
  );
}

// The chart ends here: far larger doses would flatten the useful range. The table has them all.
const MAX_CHART_DOSE = 1.3;

function curveChart(feature, all) {
  const { sweet_spot: spot, calibration } = feature;
  const curve = all.filter(([dose]) => Math.abs(dose) <= MAX_CHART_DOSE);
  const bands = [
    spot && [spot.low, spot.high],
    calibration.negative && [calibration.negative.low, calibration.negative.high],
  ].filter(Boolean);
  const text =
    "Effect by dose: " +
    `${curve.map(([dose, effect]) => `${effect.toFixed(2)} at ${roundDose(dose)}`).join(", ")} ` +
    `${effectUnit(feature)}.${spot ? ` Sweet spot ${formatRange(spot)}.` : ""}`;
  return lineChart({
    description: text,
    bands,
    lines: [
      { kind: "second", points: curve.map(([x, , z]) => [x, z]) },
      { kind: "first", points: curve.map(([x, y]) => [x, y]) },
    ],
  });
}

const chartLegend = (feature) =>
  el(
    "p",
    { class: "legend" },
    el("span", { class: "key first" }, `effect, ${effectUnit(feature)}`),
    el("span", { class: "key second" }, "surprise, nats per token"),
    el("span", { class: "key band" }, "sweet spot"),
  );

const curveTable = (curve) =>
  el(
    "details",
    { class: "numbers" },
    el("summary", {}, "As numbers"),
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ["Dose", "Effect", "Surprise"].map((name) =>
            el("th", { scope: "col", class: "number" }, name),
          ),
        ),
      ),
      el(
        "tbody",
        {},
        curve.map((row) =>
          el(
            "tr",
            {},
            row.map((x) => el("td", { class: "number" }, x.toFixed(2))),
          ),
        ),
      ),
    ),
  );

const effectWords = ({ calibration }) =>
  calibration?.words.length
    ? mutedText(`The effect is on these words: ${calibration.words.join(", ")}.`)
    : null;

export function examplesSection(feature) {
  const { examples: best, samples, max_activation: max } = feature;
  if (!best.length)
    return section(
      "Examples",
      mutedText("No examples yet; `tiller describe` collects them from a corpus."),
    );
  return section(
    "Examples",
    el("h4", {}, "Strongest activations"),
    el(
      "ol",
      { class: "examples" },
      best.map((e) => exampleNode(e, max)),
    ),
    samples.length
      ? [
          el("h4", {}, "Weaker activations, in % of the maximum"),
          el(
            "ol",
            { class: "examples" },
            samples.map((e) => exampleNode(e, max, true)),
          ),
        ]
      : null,
  );
}

// An example text with its activations marked, stronger ones darker. Without tokens only the
// strongest is known.
function exampleNode(e, max, bucket = false) {
  const strength = (a) => (max > 0 ? Math.min(1, Math.max(0, a / max)) : 0);
  const pieces = e.tokens ? e.tokens.map((t, i) => [t, e.activations?.[i] ?? 0]) : guessedTokens(e);
  return el(
    "li",
    {},
    el(
      "span",
      { class: "text" },
      pieces.map(([t, a], i) => tokenNode(i ? t : t.trimStart(), a, strength(a))),
    ),
    el(
      "span",
      { class: "level" },
      bucket ? `${Math.round(100 * strength(e.activation))} %` : formatNumber(e.activation),
    ),
  );
}

const MARKER = /^<\|.*\|>$/;
function tokenNode(text, activation, share) {
  if (MARKER.test(text.trim()))
    return el("span", { class: "marker" }, text.replace(/<\|(.*)\|>/, "$1 "));
  if (!(share > 0.02)) return text.replaceAll("\n", "↵");
  const node = el(
    "mark",
    {
      title: `${formatNumber(activation)}, ${Math.round(100 * share)} % of its maximum`,
    },
    text.replaceAll("\n", "↵"),
  );
  node.style.setProperty("--share", `${Math.round(10 + 44 * share)}%`);
  return node;
}

// Splits a text into words and finds the strongest token: the last word that contains it.
function guessedTokens({ text, token: strongest, at = Infinity, activation }) {
  const pieces = text.match(/<\|[^|]*\|>|\s?[\p{L}\p{N}]+|\s?[^\s\p{L}\p{N}]|\s+/gu) || [],
    can = (p, i) => i <= at && strongest && p.includes(strongest);
  const place = pieces.findLastIndex(can);
  return pieces.map((p, i) => [p, i === place ? activation : 0]);
}

export function histogramSection({ histogram: result }) {
  if (!result?.counts?.some(Boolean)) return null;
  const total = result.counts.reduce((a, b) => a + b, 0),
    weak = result.counts[0] / total;
  const text =
    `${total.toLocaleString("en")} activations; ${Math.round(100 * weak)} % of them below ` +
    `${formatNumber(result.width)}. Counts by activation: ${result.counts.join(", ")}.`;
  return section(
    "Activation histogram",
    barChart({ ...result, description: text }),
    mutedText(`${total.toLocaleString("en")} tokens by activation; heights are logarithmic.`),
  );
}

export function logitsSection({ top_logits: { positive = [], negative = [] } }) {
  if (!positive.length && !negative.length) return null;
  const list = (title, tokens, kind) =>
    el(
      "div",
      {},
      el("h4", {}, title),
      el(
        "ul",
        { class: `logit-tokens ${kind}` },
        tokens.map((t) => el("li", {}, t.replaceAll("\n", "↵"))),
      ),
    );
  return section(
    "Tokens",
    el(
      "div",
      { class: "pair" },
      list("Makes more likely", positive, "more"),
      list("Makes less likely", negative, "less"),
    ),
  );
}

export function neighboursSection({ similar }, open) {
  return section(
    "Nearest directions",
    el(
      "ul",
      { class: "near" },
      similar.map((f) =>
        el(
          "li",
          {},
          button(f.label || "no label", () => open(f.id), {
            class: `plain${f.label ? "" : " quiet"}`,
            title: f.label || f.id,
          }),
          el("code", {}, f.id),
          el("span", { class: "level" }, f.cosine.toFixed(2).replace("-", "−")),
        ),
      ),
    ),
  );
}

// Attribution runs only on a click, since it runs the model a few dozen times.
export function attributionSection(feature) {
  const last = conversation.turns.at(-1),
    result = el("div", { role: "status" });
  if (!last)
    return section(
      "In the chat",
      mutedText("Send a message in the chat first; then this shows what the feature contributed."),
    );
  const ask = button(
    "Run attribution",
    async () => {
      ask.disabled = true;
      result.replaceChildren(mutedText("Running attribution…"));
      try {
        result.replaceChildren(...attributionNodes(feature, await fetchAttribution()));
      } catch (error) {
        result.replaceChildren(el("p", { class: "problem" }, error.message));
      }
      ask.disabled = false;
    },
    { "data-key": "attribute" },
  );
  if (missingRoleText("POST /v1/attribute")) return null;
  return section(
    "In the chat",
    mutedText(
      `How much does it contribute to the unsteered model's answer to “${clip(last.question)}”?`,
    ),
    ask,
    result,
  );
}

const clip = (text) => (text.length > 80 ? `${text.slice(0, 79)}…` : text);
const TOP_K = 64;

async function fetchAttribution() {
  const before = conversation.turns
    .slice(0, -1)
    .flatMap((t) => [
      { role: "user", content: t.question },
      { role: "assistant", content: t.default?.text || t.steered.text },
    ])
    .filter((m) => m.content);
  const system = conversation.system ? [{ role: "system", content: conversation.system }] : [];
  return api("attribute", "POST", {
    model: await modelId(),
    messages: [...system, ...before, { role: "user", content: conversation.turns.at(-1).question }],
    top_k: TOP_K,
  });
}

function attributionNodes(feature, attribution) {
  const at = attribution.features.findIndex((f) => f.id === feature.id),
    own = attribution.features[at],
    target = `“${attribution.target.text}”`;
  if (!own)
    return [
      mutedText(
        `It is not among the ${attribution.features.length} features that contribute most to the ` +
          `first token, ${target}.`,
      ),
    ];
  const tried =
    own.ablation == null
      ? ""
      : ` Ablating it changes that by ${own.ablation.toFixed(2)} (measured).`;
  return [
    el(
      "p",
      {},
      (
        `Number ${at + 1} of ${attribution.active} active features for the first token, ` +
        `${target} ` +
        `(${Math.round(100 * attribution.probability)} % likely): ${own.attribution.toFixed(2)} ` +
        `by its gradient, strongest on “${own.token}”.${tried}`
      ).replaceAll(" -", " −"),
    ),
  ];
}
