// Analyze: which features a text evokes, token by token, by speaker, along the text; and what tells two texts apart.
import { api, model } from "../lib/api.js";
import { lineChart } from "../lib/chart.js";
import { button, download, el, keepFocus, toast } from "../lib/dom.js";
import { open } from "../shell/header.js";
import { keepInTab, ofTab } from "../lib/storage.js";
import { nameOf } from "../features/descriptions.js";
import { plus } from "../features/actions.js";
import { talk } from "../chat/conversation.js";

const LIMIT = 24,
  EACH = 8;
const kept = {
  text: "",
  other: "",
  two: false,
  plain: false,
  messages: null,
  ...ofTab("analyze", {}),
};
let root,
  found = null,
  failed = "",
  running = null,
  feature = null,
  token = null,
  hint = null;

export function mount(section) {
  root = section;
  draw();
}

// Comes from elsewhere with a text to look at.
export function opened(how) {
  if (!how?.text) return;
  Object.assign(kept, { text: how.text, messages: null });
  run();
}

const save = () => keepInTab("analyze", kept);

function draw() {
  keepFocus(root, () =>
    root.replaceChildren(
      el("h2", {}, "Analyze"),
      el(
        "p",
        { class: "lead" },
        "Paste a text, a chat or a transcript (each paragraph “speaker: line”), and see which features it evokes in the model, where, and in whose words.",
      ),
      form(),
      ...results(),
    ),
  );
}

function form() {
  const area = (name, label, more) => {
    const node = el("textarea", {
      id: `analyze-${name}`,
      rows: 5,
      "aria-label": label,
      placeholder: label,
      "data-key": name,
      oninput: (e) => {
        kept[name] = e.target.value;
        kept.messages = null;
        save();
      },
      ...more,
    });
    node.value = kept[name];
    return node;
  };
  const tick = (name, words, id) =>
    el(
      "label",
      {},
      el("input", {
        type: "checkbox",
        id,
        checked: kept[name],
        "data-key": id,
        onchange: (e) => {
          kept[name] = e.target.checked;
          save();
          draw();
        },
      }),
      words,
    );
  const said = talk.turns.length > 0;
  return el(
    "div",
    { class: "card texts" },
    el(
      "div",
      { class: "pair" },
      area("text", "A text, or Speaker: line"),
      kept.two ? area("other", "A second text to hold against it") : null,
    ),
    el(
      "div",
      { class: "bar" },
      running
        ? button("Stop", () => running.abort(), { id: "analyze-stop" })
        : button("Analyze", run, { id: "analyze-run", class: "primary" }),
      button("Take the last reply", () => take(talk.turns.at(-1)?.steered.text, null), {
        id: "take-reply",
        disabled: !said,
      }),
      button("Take the conversation", conversation, { id: "take-chat", disabled: !said }),
      tick("two", "Against a second text", "two-texts"),
      tick("plain", "Read it as plain text", "plain-text"),
    ),
  );
}

function take(text, messages) {
  Object.assign(kept, { text, messages });
  save();
  run();
}

function conversation() {
  const messages = talk.turns.flatMap((t) => [
    { role: "user", content: t.question },
    { role: "assistant", content: t.steered.text },
  ]);
  take(messages.map((m) => `${m.role}: ${m.content}`).join("\n\n"), messages);
}

const looked = (text) => ({ text, plain: kept.plain });

async function run() {
  if (!kept.text.trim()) {
    hint = toast("There is nothing to look at yet: paste a text.");
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  [found, failed, feature, token] = [null, "", null, null];
  draw();
  try {
    const asked = kept.messages ? { messages: kept.messages } : looked(kept.text);
    const told = await api(
      "analyze",
      "POST",
      {
        model: await model(),
        ...asked,
        top_k: EACH,
        limit: LIMIT,
        ...(kept.two && kept.other.trim() ? { other: looked(kept.other) } : {}),
      },
      { signal: mine.signal },
    );
    found = told;
    hint?.remove();
    feature = told.features[0]?.id ?? null;
  } catch (error) {
    if (running !== mine) return;
    failed = error.name === "AbortError" ? "Stopped." : error.message;
  }
  running = null;
  draw();
}

function results() {
  if (running) return [el("p", { class: "empty", role: "status" }, "Reading the text…")];
  if (failed)
    return [
      el("div", { class: "empty problem", role: "alert" }, failed, " ", button("Try again", run)),
    ];
  if (!found)
    return [
      el(
        "p",
        { class: "empty" },
        "Nothing analyzed yet. The model reads your text once; nothing of it is stored.",
      ),
    ];
  return [
    summary(),
    el(
      "div",
      { class: "reading" },
      el("div", { class: "card" }, strip(), tokenFacts()),
      featureList(),
    ),
    along(),
    speakers(),
    apart(),
    moods(),
  ].filter(Boolean);
}

function summary() {
  const more = found.truncated
    ? " Only the beginning was read; the text is longer than what is looked at."
    : "";
  const unusual =
    found.anomaly.percentile == null
      ? ""
      : ` More is unexplained than in ${Math.round(found.anomaly.percentile)} % of the corpus' chats.`;
  return el(
    "div",
    { class: "bar" },
    el(
      "p",
      { class: "muted grow", role: "status" },
      `${found.tokens.length} tokens, ${found.features.length} features shown. The SAE leaves ${(100 * found.error).toFixed(0)} % of the stream unexplained.${unusual}${more}`,
      el(
        "span",
        {
          class: "chip",
          title:
            "Whether this tells an unusual text is not proven; see docs/guides/analyse_text.md.",
        },
        "experimental",
      ),
    ),
    button("Export CSV", () => download("analysis.csv", csv(), "text/csv"), { id: "analysis-csv" }),
    button("Export JSON", () => download("analysis.json", JSON.stringify(found, null, 2)), {
      id: "analysis-json",
    }),
  );
}

const chosen = () => found.features.find((f) => f.id === feature);

// One stop of the Tab key; arrows go from token to token.
function strip() {
  const f = chosen(),
    most = Math.max(1e-9, ...(f?.activations || []));
  const nodes = found.tokens.map((t, i) => {
    const strong = (f?.activations[i] || 0) / most;
    return el(
      "button",
      {
        type: "button",
        class: `tok ${i === token ? "on" : ""}`,
        tabindex: i === (token ?? 0) ? 0 : -1,
        style: `--heat: ${(strong * 78).toFixed(0)}%`,
        "aria-pressed": String(i === token),
        "aria-label": `“${t.text}”${strong ? `, ${f.activations[i].toFixed(2)}` : ""}`,
        "data-i": i,
      },
      t.text,
    );
  });
  const parts = found.parts.map((part, p) =>
    el(
      "p",
      { class: "part" },
      part.speaker ? el("b", { class: "speaker" }, part.speaker) : null,
      nodes.filter((_, i) => found.tokens[i].part === p),
    ),
  );
  const node = el(
    "div",
    {
      class: "strip",
      role: "group",
      "aria-label": `The text's tokens${f ? `, coloured by ${nameOf(f)}` : ""}`,
    },
    parts,
  );
  node.addEventListener("click", (event) => {
    const at = event.target.closest("[data-i]");
    if (at) pick(+at.dataset.i);
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

function pick(i) {
  token = token === i ? null : i;
  const top = root.querySelector(".reading");
  top.replaceChildren(el("div", { class: "card" }, strip(), tokenFacts()), featureList());
  top.querySelector(`[data-i="${i}"]`).focus();
}

function show(id) {
  feature = id;
  draw();
}

function tokenFacts() {
  if (token === null)
    return el(
      "p",
      { class: "muted hint" },
      "Click a token to see its features; click a feature to colour the text by it.",
    );
  const t = found.tokens[token];
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
              button(labelOf(id), () => show(id), { class: "link" }),
              el("span", { class: "number" }, activation.toFixed(2)),
              plus({ id, label: labelOf(id) }),
            ),
          ),
        )
      : el("p", { class: "muted" }, "No feature fires here."),
  );
}

const labelOf = (id) => found.features.find((f) => f.id === id)?.label || id;

function featureList() {
  if (!found.features.length) return el("p", { class: "empty" }, "No feature fires on this text.");
  const rows = found.features.map((f) =>
    el(
      "tr",
      { "aria-current": f.id === feature ? "true" : null },
      el(
        "td",
        {},
        button(nameOf(f), () => show(f.id), {
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
      el("td", {}, plus(f)),
    ),
  );
  return el(
    "div",
    { class: "card scroll" },
    el(
      "table",
      { id: "evoked" },
      el("caption", {}, "What matters most in this text"),
      el(
        "tr",
        {},
        el("th", {}, "Feature"),
        ["max", "mean", "tokens"].map((h) => el("th", { class: "number" }, h)),
        el("th", {}, el("span", { class: "away" }, "Add")),
      ),
      rows,
    ),
  );
}

function along() {
  const f = chosen();
  if (!f || f.along.length < 2) return null;
  const words = `${nameOf(f)} along the text: ${f.along.map((v) => v.toFixed(2)).join(", ")}`;
  return el(
    "figure",
    { class: "card" },
    el("h3", {}, "Along the text"),
    lineChart({ lines: [{ kind: "first", points: f.along.map((v, i) => [i + 1, v]) }], words }),
    el(
      "figcaption",
      { class: "muted" },
      `${nameOf(f)}: its mean activation in ${f.along.length} stretches of equal length. `,
      button("Details", () => open("features", { feature: f.id }), { class: "link" }),
    ),
  );
}

function speakers() {
  const people = Object.entries(found.speakers).filter(([who]) => who);
  if (people.length < 2) return null;
  const top = found.features.slice(0, 8),
    most = Math.max(1e-9, ...people.flatMap(([, means]) => top.map((f) => means[f.id] || 0)));
  const cell = (value = 0) =>
    el(
      "td",
      {},
      el("span", { class: "meter", style: `--w: ${((100 * value) / most).toFixed(0)}%` }),
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
          el("td", {}, nameOf(f)),
          people.map(([, means]) => cell(means[f.id])),
        ),
      ),
    ),
  );
}

function apart() {
  if (!found.compared) return null;
  const share = (x) => `${(100 * x).toFixed(1)} %`;
  return el(
    "div",
    { class: "card scroll" },
    el("h3", {}, "What tells the two texts apart"),
    el(
      "table",
      { id: "apart" },
      el(
        "tr",
        {},
        el("th", {}, "Feature"),
        ["first text", "second text", "log odds", "|z|"].map((h) =>
          el("th", { class: "number" }, h),
        ),
        el("th", {}, el("span", { class: "away" }, "Add")),
      ),
      found.compared.map((d) =>
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
          el("td", {}, plus(d)),
        ),
      ),
    ),
    el(
      "p",
      { class: "muted" },
      "Tokens of one text depend on each other: read |z| as an order, not as a proof.",
    ),
  );
}

// An axis has a score only where it was measured to be at least as good as counting words.
function moods() {
  if (!found.axes.length) return null;
  const said = (axis) =>
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
      "A score is shown only where the features tell a mood at least as well as a bag of words does; otherwise the features that fired and speak for it.",
    ),
    el(
      "table",
      { id: "moods" },
      el(
        "tr",
        {},
        ["Axis", "shown as", "what speaks for it", "features", "bag of words"].map((h) =>
          el("th", {}, h),
        ),
      ),
      found.axes.map((a) =>
        el(
          "tr",
          {},
          el("td", {}, a.name),
          el("td", {}, a.shown_as),
          el("td", {}, said(a)),
          el("td", { class: "number" }, a.auroc.value.toFixed(2)),
          el("td", { class: "number" }, a.bag_of_words.toFixed(2)),
        ),
      ),
    ),
  );
}

const quoted = (cell) => {
  const text = String(cell);
  return `"${(/^[=+\-@\t]/.test(text) && Number.isNaN(+text) ? `'${text}` : text).replaceAll('"', '""')}"`;
};
function csv() {
  const head = ["token", "speaker", "start", "end", ...found.features.map((f) => f.id)];
  const rows = found.tokens.map((t, i) => [
    t.text,
    found.parts[t.part]?.speaker || "",
    t.start,
    t.end,
    ...found.features.map((f) => f.activations[i]),
  ]);
  return [head, ...rows].map((row) => row.map(quoted).join(",")).join("\n");
}
