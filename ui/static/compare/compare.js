// Compare tab: one question answered by two to four steering settings side by side, optionally
// blind, with votes and a strength sweep.
import { samplingFields } from "../chat/chat_request.js";
import { conversation } from "../chat/conversation.js";
import { verdictChip } from "../chat/reply.js";
import { api } from "../lib/api.js";
import { button, download, el, icon, keepFocus, toast } from "../lib/dom.js";
import { readFromTab, saveInTab, userId } from "../lib/storage.js";
import { roundDose } from "../panel/dose.js";
import { activeSteering, onRedraw, state } from "../panel/slider_state.js";
import { countWords, streamComparison } from "./comparison_stream.js";
import { sweepNode } from "./sweep.js";

const MAX_COLUMNS = 4,
  NAMES = "ABCD";
const form = {
  question: "",
  columns: [
    { of: "default", scale: 1 },
    { of: "sliders", scale: 1 },
  ],
  blind: false,
  votes: [],
  ...readFromTab("compare", {}),
};
let root,
  results = null,
  columnOrder = null,
  running = null,
  votedColumn = null;

export function mount(section) {
  root = section;
  onRedraw(draw);
  draw();
}

const save = () => saveInTab("compare", form);
const presetOptions = () => state.presets.map((p) => [`preset ${p.id}`, p.name]);
const steeringOptions = () => [
  ["default", "Default (not steered)"],
  ["sliders", "Current sliders"],
  ...presetOptions(),
];
const columnName = ({ of, scale }) => {
  const [, name] = steeringOptions().find(([option]) => option === of) || [0, of];
  return of === "default" || scale === 1 ? name : `${name} ×${roundDose(scale)}`;
};

function steeringOf({ of, scale }) {
  if (of === "default") return null;
  if (of === "sliders") {
    const now = activeSteering();
    return now && { ...now, scale: roundDose(now.scale * scale) };
  }
  const preset = state.presets.find((p) => `preset ${p.id}` === of);
  return { preset: of.slice(7), scale: roundDose((preset?.steering.scale ?? 1) * scale) };
}

function draw() {
  keepFocus(root, () =>
    root.replaceChildren(
      el("h2", {}, "Compare"),
      el(
        "p",
        { class: "lead" },
        "One question and one seed for all columns: every difference between the replies " +
          "comes from the steering.",
      ),
      ...[questionForm(), columnsNode(), votesNode(), sweepNode(question)].filter(Boolean),
    ),
  );
}

const question = () =>
  form.question.trim() || conversation.turns.at(-1)?.question || "What should I do this weekend?";

function questionForm() {
  const box = el("textarea", {
    id: "compare-question",
    rows: 1,
    class: "grow",
    placeholder: conversation.turns.at(-1)?.question || "What should I do this weekend?",
    "aria-label": "Question to all columns",
    "data-key": "compare-question",
    oninput: (e) => {
      form.question = e.target.value;
      save();
    },
  });
  box.value = form.question;
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      runComparison();
    }
  });
  const blind = el("input", {
    type: "checkbox",
    id: "blind",
    checked: form.blind,
    onchange: (e) => {
      form.blind = e.target.checked;
      discardResults();
    },
  });
  return el(
    "div",
    { class: "card" },
    el(
      "div",
      { class: "bar" },
      box,
      running
        ? button("Stop", () => running.abort(), { id: "compare-stop" })
        : button("Compare", runComparison, { id: "compare-run", class: "primary" }),
    ),
    el(
      "div",
      { class: "bar under" },
      el("label", {}, blind, "Blind: hide which column is which until you have voted"),
      el(
        "span",
        { class: "muted" },
        `seed ${conversation.seed}, temperature ${conversation.sampling.temperature ?? 1}, ` +
          `at most ${conversation.sampling.max_tokens ?? "all"} tokens, as in the chat`,
      ),
      results && !running
        ? [
            button(
              "Export Markdown",
              () => download("comparison.md", exportMarkdown(), "text/markdown"),
              { id: "export-md" },
            ),
            button("Export JSON", () => download("comparison.json", exportJson()), {
              id: "export-json",
            }),
          ]
        : null,
    ),
  );
}

async function runComparison() {
  if (running) return;
  const variants = form.columns.map((column, i) => ({
    name: `${NAMES[i]}: ${columnName(column)}`.slice(0, 80),
    steering: steeringOf(column),
  }));
  columnOrder = form.columns.map((_, i) => i);
  if (form.blind)
    for (let i = columnOrder.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [columnOrder[i], columnOrder[j]] = [columnOrder[j], columnOrder[i]];
    }
  const controller = new AbortController();
  [votedColumn, running] = [null, controller];
  results = variants.map(() => ({ text: "", done: false }));
  draw();
  const messages = [
    ...(conversation.system.trim() ? [{ role: "system", content: conversation.system }] : []),
    { role: "user", content: question() },
  ];
  const request = { question: question(), variants, seed: conversation.seed };
  try {
    await streamComparison(
      {
        messages,
        variants,
        sampling: samplingFields(conversation.sampling, conversation.seed),
        signal: controller.signal,
      },
      (now) => {
        if (controller === running) {
          results = Object.assign(now, request);
          drawGrowing();
        }
      },
    );
  } catch (error) {
    if (controller !== running) return;
    if (error.name !== "AbortError") toast(error.message, { problem: true });
    if (!results.some((r) => r.text)) results = null;
  }
  if (controller !== running) return;
  running = null;
  if (results) Object.assign(results, request);
  draw();
}

function columnsNode() {
  const shown = columnOrder && results && form.blind ? columnOrder : form.columns.map((_, i) => i);
  return el(
    "div",
    { class: "columns", style: `--n: ${form.columns.length}` },
    shown.map((of, position) => columnNode(of, position)),
    form.columns.length < MAX_COLUMNS && !results?.some((r) => !r.done)
      ? button(
          "+ Add a column",
          () => {
            form.columns.push({
              of: presetOptions()[form.columns.length - 2]?.[0] || "sliders",
              scale: 1,
            });
            discardResults();
          },
          { id: "add-column", class: "add" },
        )
      : null,
  );
}

// Discards the results and aborts the running comparison, since the columns have changed.
function discardResults() {
  running?.abort();
  results = running = null;
  save();
  draw();
}

const isHidden = () => form.blind && results && votedColumn === null;

function columnNode(i, position) {
  const column = form.columns[i],
    result = results?.[i];
  return el(
    "section",
    {
      class: "card column",
      "data-column": i,
      "aria-label": isHidden() ? `Reply ${NAMES[position]}` : columnName(column),
    },
    isHidden() ? el("h3", {}, `Reply ${NAMES[position]}`) : columnControls(column, i),
    el("p", { class: "reply-text" }, result ? result.text || (result.done ? "" : "thinking…") : ""),
    replyFooter(result, i),
  );
}

function columnControls(column, i) {
  const choose = el(
    "select",
    {
      "aria-label": `Steering of column ${NAMES[i]}`,
      "data-key": `column ${i}`,
      onchange: (e) => {
        column.of = e.target.value;
        discardResults();
      },
    },
    steeringOptions().map(([of, name]) =>
      el("option", { value: of, selected: of === column.of }, name),
    ),
  );
  const scale = el("input", {
    type: "number",
    min: 0,
    max: 2,
    step: 0.05,
    value: roundDose(column.scale),
    "aria-label": `Strength of column ${NAMES[i]}`,
    "data-key": `scale ${i}`,
    disabled: column.of === "default",
    onchange: (e) => {
      column.scale = Math.min(2, Math.max(0, +e.target.value || 0));
      discardResults();
    },
  });
  return el(
    "div",
    { class: "bar" },
    choose,
    el("label", {}, "×", scale),
    form.columns.length > 2
      ? icon("✕", `Remove column ${NAMES[i]}`, () => {
          form.columns.splice(i, 1);
          discardResults();
        })
      : null,
  );
}

function replyFooter(result, i) {
  if (!result?.done) return el("div", { class: "foot" });
  const { coherence } = result.steering || {};
  return el(
    "div",
    { class: "foot" },
    result.problem ? el("span", { class: "chip problem", role: "alert" }, result.problem) : null,
    isHidden() ? null : verdictChip(coherence),
    el("span", { class: "chip" }, `${countWords(result.text)} words`),
    !running && votedColumn === null && results.every((r) => r.done)
      ? button("This one is better", () => vote(i), { class: "chip act", "data-act": "vote" })
      : votedColumn === i
        ? el("span", { class: "chip ok" }, "your choice")
        : null,
  );
}

// Redraws only the replies' text while they stream.
function drawGrowing() {
  for (const node of root.querySelectorAll("[data-column]")) {
    const result = results[+node.dataset.column];
    node.querySelector(".reply-text").textContent = result.text || "thinking…";
    if (result.done && !node.querySelector(".foot .chip"))
      node.querySelector(".foot").replaceWith(replyFooter(result, +node.dataset.column));
  }
}

async function vote(i) {
  votedColumn = i;
  const losers = form.columns.map((_, j) => j).filter((j) => j !== i);
  form.votes.push({
    question: results.question,
    seed: results.seed,
    blind: form.blind,
    better: results.variants[i],
    worse: losers.map((j) => results.variants[j]),
  });
  save();
  draw();
  const better = results.variants[i].steering;
  const pairs = losers
    .map((j) => results.variants[j].steering)
    .filter((worse) => better && worse && JSON.stringify(better) !== JSON.stringify(worse));
  for (const worse of pairs)
    await api("feedback", "POST", { user: userId(), kind: "ab", better, worse }).catch(
      (error) => error.status === 400 || toast(error.message, { problem: true }),
    );
}

function votesNode() {
  if (!form.votes.length) return null;
  const counts = {};
  for (const v of form.votes)
    for (const [one, won] of [[v.better, 1], ...v.worse.map((w) => [w, 0])]) {
      const name = one.name.slice(3);
      counts[name] = { won: (counts[name]?.won || 0) + won, of: (counts[name]?.of || 0) + 1 };
    }
  return el(
    "details",
    { class: "card", id: "votes" },
    el(
      "summary",
      {},
      `Votes: ${form.votes.length}, ${form.votes.filter((v) => v.blind).length} of them blind`,
    ),
    el(
      "table",
      {},
      el(
        "tr",
        {},
        el("th", {}, "Spec"),
        el("th", { class: "number" }, "won"),
        el("th", { class: "number" }, "of"),
      ),
      Object.entries(counts).map(([name, { won, of }]) =>
        el(
          "tr",
          {},
          el("td", {}, name),
          el("td", { class: "number" }, won),
          el("td", { class: "number" }, of),
        ),
      ),
    ),
    button("Delete the votes", () => {
      form.votes = [];
      save();
      draw();
    }),
  );
}

const exportJson = () =>
  JSON.stringify(
    {
      question: results.question,
      seed: results.seed,
      sampling: conversation.sampling,
      system: conversation.system || null,
      columns: results.variants.map((v, i) => ({
        ...v,
        text: results[i].text,
        coherence: results[i].steering?.coherence ?? null,
        applied: results[i].steering?.applied ?? [],
        vote: votedColumn === i,
      })),
    },
    null,
    2,
  );
const exportMarkdown = () =>
  `# ${results.question.replaceAll("\n", " ")}\n\nSeed ${results.seed}, ${Object.entries(
    conversation.sampling,
  )
    .map(([k, v]) => `${k} ${v}`)
    .join(", ")}.\n\n` +
  results.variants
    .map(
      (v, i) =>
        `## ${v.name}${votedColumn === i ? " (better)" : ""}\n\n` +
        `${results[i].text
          .split("\n")
          .map((l) => `> ${l}`)
          .join("\n")}\n` +
        `\nCoherence: ${results[i].steering?.coherence?.verdict ?? "not judged"}, ` +
        `${countWords(results[i].text)} words.\n\n\`\`\`json\n` +
        `${JSON.stringify(v.steering)}\n\`\`\`\n`,
    )
    .join("\n");
