// Analyze tab: the features that a text activates, by token, by speaker and along the text, and
// the features that differ between two texts.
import { conversation } from "../chat/conversation.js";
import { addButton } from "../features/actions.js";
import { featureName } from "../features/descriptions.js";
import { api, modelId } from "../lib/api.js";
import { lineChart } from "../lib/chart.js";
import { button, download, el, keepFocus, toast } from "../lib/dom.js";
import { readFromTab, saveInTab } from "../lib/storage.js";
import { openTab } from "../shell/header.js";

const LIMIT = 24,
  TOP_K = 8;
const form = {
  text: "",
  other: "",
  two: false,
  plain: false,
  messages: null,
  ...readFromTab("analyze", {}),
};
let root,
  analysis = null,
  problem = "",
  running = null,
  selectedId = null,
  selectedToken = null,
  hint = null;

export function mount(section) {
  root = section;
  draw();
}

// Runs when another tab opens this one with a text.
export function opened(options) {
  if (!options?.text) return;
  Object.assign(form, { text: options.text, messages: null });
  runAnalysis();
}

const save = () => saveInTab("analyze", form);

function draw() {
  keepFocus(root, () =>
    root.replaceChildren(
      el("h2", {}, "Analyze"),
      el(
        "p",
        { class: "lead" },
        "Paste a text, a chat or a transcript (each paragraph “speaker: line”) to see " +
          "which features it activates, where, and for which speaker.",
      ),
      formNode(),
      ...results(),
    ),
  );
}

function formNode() {
  const area = (name, label, more) => {
    const node = el("textarea", {
      id: `analyze-${name}`,
      rows: 5,
      "aria-label": label,
      placeholder: label,
      "data-key": name,
      oninput: (e) => {
        form[name] = e.target.value;
        form.messages = null;
        save();
      },
      ...more,
    });
    node.value = form[name];
    return node;
  };
  const tick = (name, words, id) =>
    el(
      "label",
      {},
      el("input", {
        type: "checkbox",
        id,
        checked: form[name],
        "data-key": id,
        onchange: (e) => {
          form[name] = e.target.checked;
          save();
          draw();
        },
      }),
      words,
    );
  const hasTurns = conversation.turns.length > 0;
  return el(
    "div",
    { class: "card texts" },
    el(
      "div",
      { class: "pair" },
      area("text", "A text, or Speaker: line"),
      form.two ? area("other", "A second text to compare with") : null,
    ),
    el(
      "div",
      { class: "bar" },
      running
        ? button("Stop", () => running.abort(), { id: "analyze-stop" })
        : button("Analyze", runAnalysis, { id: "analyze-run", class: "primary" }),
      button(
        "Use the last reply",
        () => analyzeText(conversation.turns.at(-1)?.steered.text, null),
        {
          id: "use-reply",
          disabled: !hasTurns,
        },
      ),
      button("Use the conversation", analyzeConversation, {
        id: "use-conversation",
        disabled: !hasTurns,
      }),
      tick("two", "Compare with a second text", "two-texts"),
      tick("plain", "Treat as plain text", "plain-text"),
    ),
  );
}

function analyzeText(text, messages) {
  Object.assign(form, { text, messages });
  save();
  runAnalysis();
}

function analyzeConversation() {
  const messages = conversation.turns.flatMap((t) => [
    { role: "user", content: t.question },
    { role: "assistant", content: t.steered.text },
  ]);
  analyzeText(messages.map((m) => `${m.role}: ${m.content}`).join("\n\n"), messages);
}

const textInput = (text) => ({ text, plain: form.plain });

async function runAnalysis() {
  if (!form.text.trim()) {
    hint = toast("There is no text yet: paste one.");
    return;
  }
  running?.abort();
  const controller = (running = new AbortController());
  [analysis, problem, selectedId, selectedToken] = [null, "", null, null];
  draw();
  try {
    const asked = form.messages ? { messages: form.messages } : textInput(form.text);
    const result = await api(
      "analyze",
      "POST",
      {
        model: await modelId(),
        ...asked,
        top_k: TOP_K,
        limit: LIMIT,
        ...(form.two && form.other.trim() ? { other: textInput(form.other) } : {}),
      },
      { signal: controller.signal },
    );
    analysis = result;
    hint?.remove();
    selectedId = result.features[0]?.id ?? null;
  } catch (error) {
    if (running !== controller) return;
    problem = error.name === "AbortError" ? "Stopped." : error.message;
  }
  running = null;
  draw();
}

function results() {
  if (running) return [el("p", { class: "empty", role: "status" }, "Analyzing the text…")];
  if (problem)
    return [
      el(
        "div",
        { class: "empty problem", role: "alert" },
        problem,
        " ",
        button("Try again", runAnalysis),
      ),
    ];
  if (!analysis)
    return [
      el(
        "p",
        { class: "empty" },
        "Nothing analyzed yet. The model processes your text once; it is not stored.",
      ),
    ];
  return [
    summaryBar(),
    el(
      "div",
      { class: "analysis" },
      el("div", { class: "card" }, tokenStrip(), tokenFeatures()),
      featuresTable(),
    ),
    alongText(),
    speakersTable(),
    differencesTable(),
    moodsTable(),
  ].filter(Boolean);
}

function summaryBar() {
  const more = analysis.truncated ? " The text is too long: only its beginning was analyzed." : "";
  const unusual =
    analysis.anomaly.percentile == null
      ? ""
      : ` That is more than in ${Math.round(analysis.anomaly.percentile)} % of the corpus's chats.`;
  return el(
    "div",
    { class: "bar" },
    el(
      "p",
      { class: "muted grow", role: "status" },
      `${analysis.tokens.length} tokens, ${analysis.features.length} features shown. The ` +
        `SAE leaves ${(100 * analysis.error).toFixed(0)} % of the residual stream ` +
        `unexplained.${unusual}${more}`,
      el(
        "span",
        {
          class: "chip",
          title: "Not proven to detect unusual texts; see docs/guides/analyse_text.md.",
        },
        "experimental",
      ),
    ),
    button("Export CSV", () => download("analysis.csv", exportCsv(), "text/csv"), {
      id: "analysis-csv",
    }),
    button("Export JSON", () => download("analysis.json", JSON.stringify(analysis, null, 2)), {
      id: "analysis-json",
    }),
  );
}

const selectedFeature = () => analysis.features.find((f) => f.id === selectedId);

// Token strip: one Tab stop; the arrow keys move between tokens (roving tabindex).
function tokenStrip() {
  const f = selectedFeature(),
    max = Math.max(1e-9, ...(f?.activations || []));
  const nodes = analysis.tokens.map((t, i) => {
    const strong = (f?.activations[i] || 0) / max;
    return el(
      "button",
      {
        type: "button",
        class: `token-button ${i === selectedToken ? "on" : ""}`,
        tabindex: i === (selectedToken ?? 0) ? 0 : -1,
        style: `--heat: ${(strong * 78).toFixed(0)}%`,
        "aria-pressed": String(i === selectedToken),
        "aria-label": `“${t.text}”${strong ? `, ${f.activations[i].toFixed(2)}` : ""}`,
        "data-i": i,
      },
      t.text,
    );
  });
  const parts = analysis.parts.map((part, p) =>
    el(
      "p",
      { class: "part" },
      part.speaker ? el("b", { class: "speaker" }, part.speaker) : null,
      nodes.filter((_, i) => analysis.tokens[i].part === p),
    ),
  );
  const node = el(
    "div",
    {
      class: "token-strip",
      role: "group",
      "aria-label": `The text's tokens${f ? `, coloured by ${featureName(f)}` : ""}`,
    },
    parts,
  );
  node.addEventListener("click", (event) => {
    const at = event.target.closest("[data-i]");
    if (at) selectToken(+at.dataset.i);
  });
  node.addEventListener("keydown", (event) => {
    const at = event.target.closest("[data-i]"),
      step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!at || !step) return;
    event.preventDefault();
    const to = Math.min(nodes.length - 1, Math.max(0, +at.dataset.i + step));
    nodes[to].focus();
  });
  return node;
}

function selectToken(i) {
  selectedToken = selectedToken === i ? null : i;
  const top = root.querySelector(".analysis");
  top.replaceChildren(el("div", { class: "card" }, tokenStrip(), tokenFeatures()), featuresTable());
  top.querySelector(`[data-i="${i}"]`).focus();
}

function selectFeature(id) {
  selectedId = id;
  draw();
}

function tokenFeatures() {
  if (selectedToken === null)
    return el(
      "p",
      { class: "muted hint" },
      "Click a token to see its features; click a feature to colour the text by it.",
    );
  const t = analysis.tokens[selectedToken];
  return el(
    "div",
    { class: "token-facts" },
    el("h3", {}, `“${t.text}”`),
    t.top.length
      ? el(
          "ul",
          {},
          t.top.map(({ feature: id, activation }) =>
            el(
              "li",
              {},
              button(labelOf(id), () => selectFeature(id), { class: "link" }),
              el("span", { class: "number" }, activation.toFixed(2)),
              addButton({ id, label: labelOf(id) }),
            ),
          ),
        )
      : el("p", { class: "muted" }, "No feature is active here."),
  );
}

const labelOf = (id) =>
  analysis.features.find((f) => f.id === id)?.label || analysis.labels[id] || id;

function featuresTable() {
  if (!analysis.features.length)
    return el("p", { class: "empty" }, "No feature is active in this text.");
  const rows = analysis.features.map((f) =>
    el(
      "tr",
      { "aria-current": f.id === selectedId ? "true" : null },
      el(
        "td",
        {},
        button(featureName(f), () => selectFeature(f.id), {
          class: "link",
          id: `show-${f.id}`,
          "data-key": `show ${f.id}`,
        }),
        " ",
        el("code", {}, f.id),
      ),
      ...[f.max.toFixed(2), f.mean.toFixed(2), f.count].map((n) =>
        el("td", { class: "number" }, n),
      ),
      el("td", {}, addButton(f)),
    ),
  );
  return el(
    "div",
    { class: "card scroll" },
    el(
      "table",
      { id: "text-features" },
      el("caption", {}, "Most important features of this text"),
      el(
        "tr",
        {},
        el("th", {}, "Feature"),
        ["max", "mean", "tokens"].map((h) => el("th", { class: "number" }, h)),
        el("th", {}, el("span", { class: "visually-hidden" }, "Add")),
      ),
      rows,
    ),
  );
}

function alongText() {
  const f = selectedFeature();
  if (!f || f.along.length < 2) return null;
  const text = `${featureName(f)} along the text: ${f.along.map((v) => v.toFixed(2)).join(", ")}`;
  return el(
    "figure",
    { class: "card" },
    el("h3", {}, "Along the text"),
    lineChart({
      lines: [{ kind: "first", points: f.along.map((v, i) => [i + 1, v]) }],
      description: text,
    }),
    el(
      "figcaption",
      { class: "muted" },
      `${featureName(f)}: its mean activation in ${f.along.length} stretches of equal length. `,
      button("Details", () => openTab("features", { feature: f.id }), { class: "link" }),
    ),
  );
}

function speakersTable() {
  const people = Object.entries(analysis.speakers).filter(([who]) => who);
  if (people.length < 2) return null;
  const top = analysis.features.slice(0, 8),
    max = Math.max(1e-9, ...people.flatMap(([, means]) => top.map((f) => means[f.id] || 0)));
  const cell = (value = 0) =>
    el(
      "td",
      {},
      el("span", { class: "meter", style: `--w: ${((100 * value) / max).toFixed(0)}%` }),
      el("span", { class: "number" }, value.toFixed(2)),
    );
  return el(
    "div",
    { class: "card scroll" },
    el("h3", {}, "By speaker"),
    el(
      "table",
      { id: "by-speaker" },
      el(
        "tr",
        {},
        el("th", {}, "Mean activation"),
        people.map(([who]) => el("th", {}, who)),
      ),
      top.map((f) =>
        el(
          "tr",
          {},
          el("td", {}, featureName(f)),
          people.map(([, means]) => cell(means[f.id])),
        ),
      ),
    ),
  );
}

function differencesTable() {
  if (!analysis.compared) return null;
  const share = (x) => `${(100 * x).toFixed(1)} %`;
  return el(
    "div",
    { class: "card scroll" },
    el("h3", {}, "Differences between the two texts"),
    el(
      "table",
      { id: "differences" },
      el(
        "tr",
        {},
        el("th", {}, "Feature"),
        ["first text", "second text", "log odds", "|z|"].map((h) =>
          el("th", { class: "number" }, h),
        ),
        el("th", {}, el("span", { class: "visually-hidden" }, "Add")),
      ),
      analysis.compared.map((d) =>
        el(
          "tr",
          {},
          el("td", {}, d.label || d.id, " ", el("code", {}, d.id)),
          [
            share(d.here),
            share(d.there),
            d.log_odds.toFixed(2).replace("-", "−"),
            d.sure.toFixed(1),
          ].map((n) => el("td", { class: "number" }, n)),
          el("td", {}, addButton(d)),
        ),
      ),
    ),
    el(
      "p",
      { class: "muted" },
      "Tokens of one text are not independent: use |z| for ranking, not as a significance test.",
    ),
  );
}

// Mood axes: a score is shown only where it was measured to be at least as good as a bag of words.
function moodsTable() {
  if (!analysis.axes.length) return null;
  const hasTurns = (axis) =>
    axis.score == null
      ? axis.evidence.length
        ? axis.evidence.map(labelOf).join(", ")
        : "no evidence in this text"
      : `${axis.score.toFixed(2)}, where 0 is ${axis.low} and 1 is ${axis.high}`;
  return el(
    "details",
    { class: "card scroll" },
    el("summary", {}, "Moods"),
    el(
      "p",
      { class: "muted" },
      "A score is shown only where the features predict a mood at least as well as a bag " +
        "of words; otherwise the active features that are evidence for it.",
    ),
    el(
      "table",
      { id: "moods" },
      el(
        "tr",
        {},
        ["Axis", "shown as", "evidence", "features", "bag of words"].map((h) => el("th", {}, h)),
      ),
      analysis.axes.map((a) =>
        el(
          "tr",
          {},
          el("td", {}, a.name),
          el("td", {}, a.shown_as),
          el("td", {}, hasTurns(a)),
          el("td", { class: "number" }, a.auroc.value.toFixed(2)),
          el("td", { class: "number" }, a.bag_of_words.toFixed(2)),
        ),
      ),
    ),
  );
}

// Quoted; a text that a spreadsheet would take for a formula begins with an apostrophe.
const csvCell = (cell) => {
  const text = String(cell);
  const isFormula = /^[=+\-@\t]/.test(text) && Number.isNaN(+text);
  return `"${(isFormula ? `'${text}` : text).replaceAll('"', '""')}"`;
};
function exportCsv() {
  const head = ["token", "speaker", "start", "end", ...analysis.features.map((f) => f.id)];
  const rows = analysis.tokens.map((t, i) => [
    t.text,
    analysis.parts[t.part]?.speaker || "",
    t.start,
    t.end,
    ...analysis.features.map((f) => f.activations[i]),
  ]);
  return [head, ...rows].map((row) => row.map(csvCell).join(",")).join("\n");
}
