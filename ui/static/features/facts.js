// The parts of a feature's drawer that show what is known of it: doses, examples, tokens, neighbours. Knows one feature.
import { api, model } from "../lib/api.js";
import { barChart, lineChart } from "../lib/chart.js";
import { button, el } from "../lib/dom.js";
import { tidy } from "../panel/dose.js";
import { curveOf, KINDS, measuredWords, share, sourceWords, span } from "./descriptions.js";
import { beyond } from "../lib/roles.js";
import { talk } from "../chat/conversation.js";

const part = (title, ...content) =>
  el("section", { class: "fact" }, el("h3", {}, title), ...content);
const muted = (words) => el("p", { class: "muted" }, words);
const number = (x) => (x ? +x.toPrecision(3) : 0).toLocaleString("en");

export function figures(feature) {
  const { label_scores: scores } = feature;
  const rows = [
    ["Density", share(feature)],
    ["Largest activation", feature.max_activation ? number(feature.max_activation) : "not seen"],
    ["Typical maximum", feature.typical_max ? number(feature.typical_max) : "not seen"],
    ["Layer", feature.layer],
    ["Label", sourceWords(feature) + by(feature)],
    scores && ["The label predicts", scoreWords(scores)],
    feature.output_score != null && ["Output score", number(feature.output_score)],
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
          "⚠ The label may be stale: the feature has turned since it was labelled.",
        )
      : null,
    feature.kind.map((kind) => el("p", { class: "flag" }, `${kind}: ${KINDS[kind]}`)),
  );
}

const by = ({ edited }) =>
  edited?.label != null && edited.before?.label ? `, instead of “${edited.before.label}”` : "";
const scoreWords = ({ detection, fuzzing, n }) =>
  `texts ${Math.round(100 * detection)} %${fuzzing == null ? "" : `, tokens ${Math.round(100 * fuzzing)} %`} right, of ${n} (guessing: 50 %)`;

export function doses(feature) {
  const curve = curveOf(feature),
    words = measuredWords(feature);
  return part(
    "Dose",
    curve.length
      ? [curveChart(feature, curve), legend(), muted(words), asNumbers(curve)]
      : muted(words),
    measuredBy(feature),
  );
}

// Far beyond 1.0 everything breaks, which would flatten what can be used: that is only among the numbers.
const SEEN = 1.3;

function curveChart({ sweet_spot: spot, calibration }, all) {
  const curve = all.filter(([dose]) => Math.abs(dose) <= SEEN);
  const bands = [
    spot && [spot.low, spot.high],
    calibration.negative && [calibration.negative.low, calibration.negative.high],
  ].filter(Boolean);
  const words = `Effect by dose: ${curve.map(([dose, effect]) => `${effect.toFixed(2)} at ${tidy(dose)}`).join(", ")} nats.${spot ? ` Sweet spot ${span(spot)}.` : ""}`;
  return lineChart({
    words,
    bands,
    lines: [
      { kind: "second", points: curve.map(([x, , z]) => [x, z]) },
      { kind: "first", points: curve.map(([x, y]) => [x, y]) },
    ],
  });
}

const legend = () =>
  el(
    "p",
    { class: "legend" },
    el("span", { class: "key first" }, "effect, nats"),
    el("span", { class: "key second" }, "surprise, nats a token"),
    el("span", { class: "key band" }, "sweet spot"),
  );

const asNumbers = (curve) =>
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

const measuredBy = ({ calibration }) =>
  calibration?.words.length
    ? muted(`The effect is on these words: ${calibration.words.join(", ")}.`)
    : null;

export function examples(feature) {
  const { examples: best, samples, max_activation: most } = feature;
  if (!best.length)
    return part(
      "Examples",
      muted("No examples yet: they come from describing the bundle on a corpus."),
    );
  return part(
    "Examples",
    el("h4", {}, "Where it fires most, by activation"),
    el(
      "ol",
      { class: "examples" },
      best.map((e) => example(e, most)),
    ),
    samples.length
      ? [
          el("h4", {}, "Where it fires weakly, in % of its maximum"),
          el(
            "ol",
            { class: "examples" },
            samples.map((e) => example(e, most, true)),
          ),
        ]
      : null,
  );
}

// A text with what fires in it marked, the stronger the darker. Without its tokens only the strongest is known.
function example(e, most, bucket = false) {
  const strength = (a) => (most > 0 ? Math.min(1, Math.max(0, a / most)) : 0);
  const pieces = e.tokens ? e.tokens.map((t, i) => [t, e.activations?.[i] ?? 0]) : around(e);
  return el(
    "li",
    {},
    el(
      "span",
      { class: "text" },
      pieces.map(([t, a], i) => token(i ? t : t.trimStart(), a, strength(a))),
    ),
    el(
      "span",
      { class: "level" },
      bucket ? `${Math.round(100 * strength(e.activation))} %` : number(e.activation),
    ),
  );
}

const MARKER = /^<\|.*\|>$/;
function token(words, activation, share) {
  if (MARKER.test(words.trim()))
    return el("span", { class: "marker" }, words.replace(/<\|(.*)\|>/, "$1 "));
  if (!(share > 0.02)) return words.replaceAll("\n", "↵");
  const node = el(
    "mark",
    { title: `${number(activation)}, ${Math.round(100 * share)} % of its maximum` },
    words.replaceAll("\n", "↵"),
  );
  node.style.setProperty("--share", `${Math.round(10 + 44 * share)}%`);
  return node;
}

// The place of the strongest token, by counting words: the last that can be it.
function around({ text, token: strongest, at = Infinity, activation }) {
  const pieces = text.match(/<\|[^|]*\|>|\s?[\p{L}\p{N}]+|\s?[^\s\p{L}\p{N}]|\s+/gu) || [],
    can = (p, i) => i <= at && strongest && p.includes(strongest);
  const place = pieces.findLastIndex(can);
  return pieces.map((p, i) => [p, i === place ? activation : 0]);
}

export function histogram({ histogram: told }) {
  if (!told?.counts?.some(Boolean)) return null;
  const total = told.counts.reduce((a, b) => a + b, 0),
    weak = told.counts[0] / total;
  const words = `It fired ${total.toLocaleString("en")} times; ${Math.round(100 * weak)} % of them below ${number(told.width)}. Counts by activation: ${told.counts.join(", ")}.`;
  return part(
    "How strongly it fires",
    barChart({ ...told, words }),
    muted(`${total.toLocaleString("en")} tokens by activation; heights are logarithms.`),
  );
}

export function logits({ top_logits: { positive = [], negative = [] } }) {
  if (!positive.length && !negative.length) return null;
  const list = (title, tokens, kind) =>
    el(
      "div",
      {},
      el("h4", {}, title),
      el(
        "ul",
        { class: `tokens-of ${kind}` },
        tokens.map((t) => el("li", {}, t.replaceAll("\n", "↵"))),
      ),
    );
  return part(
    "Tokens",
    el(
      "div",
      { class: "pair" },
      list("It makes likelier", positive, "more"),
      list("It makes less likely", negative, "less"),
    ),
  );
}

export function neighbours({ similar }, open) {
  return part(
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

// Asked for, not told unasked: each answer runs the model a few dozen times.
export function attribution(feature) {
  const last = talk.turns.at(-1),
    told = el("div", { role: "status" });
  if (!last)
    return part(
      "In the chat",
      muted("Ask something in the chat; then this says what the feature had to do with it."),
    );
  const ask = button(
    "Attribute it",
    async () => {
      ask.disabled = true;
      told.replaceChildren(muted("Trying what the next token comes from…"));
      try {
        told.replaceChildren(...attributed(feature, await attribute()));
      } catch (error) {
        told.replaceChildren(el("p", { class: "problem" }, error.message));
      }
      ask.disabled = false;
    },
    { "data-key": "attribute" },
  );
  if (beyond("POST /v1/attribute")) return null;
  return part(
    "In the chat",
    muted(`What has it to do with how the unsteered model answers “${clipped(last.question)}”?`),
    ask,
    told,
  );
}

const clipped = (text) => (text.length > 80 ? `${text.slice(0, 79)}…` : text);
const MANY = 64;

async function attribute() {
  const before = talk.turns
    .slice(0, -1)
    .flatMap((t) => [
      { role: "user", content: t.question },
      { role: "assistant", content: t.default?.text || t.steered.text },
    ])
    .filter((m) => m.content);
  const system = talk.system ? [{ role: "system", content: talk.system }] : [];
  return api("attribute", "POST", {
    model: await model(),
    messages: [...system, ...before, { role: "user", content: talk.turns.at(-1).question }],
    top_k: MANY,
  });
}

function attributed(feature, found) {
  const at = found.features.findIndex((f) => f.id === feature.id),
    mine = found.features[at],
    target = `“${found.target.text}”`;
  if (!mine)
    return [
      muted(
        `It is not among the ${found.features.length} features that the first token, ${target}, comes from most.`,
      ),
    ];
  const tried =
    mine.ablation == null
      ? ""
      : ` Switching it off changes that by ${mine.ablation.toFixed(2)}, tried.`;
  return [
    el(
      "p",
      {},
      `Number ${at + 1} of ${found.active} active features for the first token, ${target} (${Math.round(100 * found.probability)} % likely): ${mine.attribution.toFixed(2)} by its gradient, strongest on “${mine.token}”.${tried}`.replaceAll(
        " -",
        " −",
      ),
    ),
  ];
}
