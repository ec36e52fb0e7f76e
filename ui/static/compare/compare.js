// Compare: the same question to two to four specs side by side, seen or blind, with votes; and one feature's strengths in a sweep.
import { api } from "../lib/api.js";
import { tidy } from "../panel/dose.js";
import { button, download, el, icon, keepFocus, toast } from "../lib/dom.js";
import { keepInTab, me, ofTab } from "../lib/storage.js";
import { verdictChip } from "../chat/reply.js";
import { asked, onDraw, state } from "../panel/slider_state.js";
import { sweepNode } from "./sweep.js";
import { talk } from "../chat/conversation.js";
import { samplingFields } from "../chat/chat_request.js";
import { compared, wordsOf } from "./comparison_stream.js";

const MOST = 4,
  NAMES = "ABCD";
const kept = {
  question: "",
  columns: [
    { of: "default", scale: 1 },
    { of: "sliders", scale: 1 },
  ],
  blind: false,
  votes: [],
  ...ofTab("compare", {}),
};
let root,
  results = null,
  order = null,
  running = null,
  voted = null;

export function mount(section) {
  root = section;
  onDraw(draw);
  draw();
}

const save = () => keepInTab("compare", kept);
const presets = () => state.presets.map((p) => [`preset ${p.id}`, p.name]);
const choices = () => [
  ["default", "Default (not steered)"],
  ["sliders", "The sliders as they are"],
  ...presets(),
];
const called = (column) =>
  `${(choices().find(([of]) => of === column.of) || [0, column.of])[1]}${column.of === "default" || column.scale === 1 ? "" : ` ×${tidy(column.scale)}`}`;

function steeringOf({ of, scale }) {
  if (of === "default") return null;
  if (of === "sliders") {
    const now = asked();
    return now && { ...now, scale: tidy(now.scale * scale) };
  }
  const preset = state.presets.find((p) => `preset ${p.id}` === of);
  return { preset: of.slice(7), scale: tidy((preset?.steering.scale ?? 1) * scale) };
}

function draw() {
  keepFocus(root, () =>
    root.replaceChildren(
      el("h2", {}, "Compare"),
      el(
        "p",
        { class: "lead" },
        "One question, one seed, several specs: whatever differs between the replies comes from the steering.",
      ),
      ...[ask(), columnsNode(), score(), sweepNode(question)].filter(Boolean),
    ),
  );
}

const question = () =>
  kept.question.trim() || talk.turns.at(-1)?.question || "What should I do this weekend?";

function ask() {
  const box = el("textarea", {
    id: "compare-question",
    rows: 1,
    class: "grow",
    placeholder: talk.turns.at(-1)?.question || "What should I do this weekend?",
    "aria-label": "Question to all columns",
    "data-key": "compare-question",
    oninput: (e) => {
      kept.question = e.target.value;
      save();
    },
  });
  box.value = kept.question;
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      run();
    }
  });
  const blind = el("input", {
    type: "checkbox",
    id: "blind",
    checked: kept.blind,
    onchange: (e) => {
      kept.blind = e.target.checked;
      change();
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
        : button("Compare", run, { id: "compare-run", class: "primary" }),
    ),
    el(
      "div",
      { class: "bar under" },
      el("label", {}, blind, "Blind: hide which column is which until you have voted"),
      el(
        "span",
        { class: "muted" },
        `seed ${talk.seed}, temperature ${talk.sampling.temperature ?? 1}, at most ${talk.sampling.max_tokens ?? "all"} tokens, as in the chat`,
      ),
      results && !running
        ? [
            button(
              "Export Markdown",
              () => download("comparison.md", markdown(), "text/markdown"),
              { id: "export-md" },
            ),
            button("Export JSON", () => download("comparison.json", json()), { id: "export-json" }),
          ]
        : null,
    ),
  );
}

async function run() {
  if (running) return;
  const variants = kept.columns.map((column, i) => ({
    name: `${NAMES[i]}: ${called(column)}`.slice(0, 80),
    steering: steeringOf(column),
  }));
  order = kept.columns.map((_, i) => i);
  if (kept.blind)
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
  const mine = new AbortController();
  [voted, running] = [null, mine];
  results = variants.map(() => ({ text: "", done: false }));
  draw();
  const messages = [
    ...(talk.system.trim() ? [{ role: "system", content: talk.system }] : []),
    { role: "user", content: question() },
  ];
  const made = { question: question(), variants, seed: talk.seed };
  try {
    await compared(
      {
        messages,
        variants,
        sampling: samplingFields(talk.sampling, talk.seed),
        signal: mine.signal,
      },
      (now) => {
        if (mine === running) {
          results = Object.assign(now, made);
          grow();
        }
      },
    );
  } catch (error) {
    if (mine !== running) return;
    if (error.name !== "AbortError") toast(error.message, { problem: true });
    if (!results.some((r) => r.text)) results = null;
  }
  if (mine !== running) return;
  running = null;
  if (results) Object.assign(results, made);
  draw();
}

function columnsNode() {
  const shown = order && results && kept.blind ? order : kept.columns.map((_, i) => i);
  return el(
    "div",
    { class: "columns", style: `--n: ${kept.columns.length}` },
    shown.map((of, place) => columnNode(of, place)),
    kept.columns.length < MOST && !results?.some((r) => !r.done)
      ? button(
          "+ Add a column",
          () => {
            kept.columns.push({
              of: presets()[kept.columns.length - 2]?.[0] || "sliders",
              scale: 1,
            });
            change();
          },
          { id: "add-column", class: "add" },
        )
      : null,
  );
}

// Replies to columns that are others now are none of theirs, and those that still come are not wanted.
function change() {
  running?.abort();
  results = running = null;
  save();
  draw();
}

const hidden = () => kept.blind && results && voted === null;

function columnNode(i, place) {
  const column = kept.columns[i],
    result = results?.[i];
  return el(
    "section",
    {
      class: "card column",
      "data-column": i,
      "aria-label": hidden() ? `Reply ${NAMES[place]}` : called(column),
    },
    hidden() ? el("h3", {}, `Reply ${NAMES[place]}`) : chooser(column, i),
    el("p", { class: "said" }, result ? result.text || (result.done ? "" : "thinking…") : ""),
    foot(result, i),
  );
}

function chooser(column, i) {
  const choose = el(
    "select",
    {
      "aria-label": `Spec of column ${NAMES[i]}`,
      "data-key": `column ${i}`,
      onchange: (e) => {
        column.of = e.target.value;
        change();
      },
    },
    choices().map(([of, name]) => el("option", { value: of, selected: of === column.of }, name)),
  );
  const scale = el("input", {
    type: "number",
    min: 0,
    max: 2,
    step: 0.05,
    value: tidy(column.scale),
    "aria-label": `Strength of column ${NAMES[i]}`,
    "data-key": `scale ${i}`,
    disabled: column.of === "default",
    onchange: (e) => {
      column.scale = Math.min(2, Math.max(0, +e.target.value || 0));
      change();
    },
  });
  return el(
    "div",
    { class: "bar" },
    choose,
    el("label", {}, "×", scale),
    kept.columns.length > 2
      ? icon("✕", `Remove column ${NAMES[i]}`, () => {
          kept.columns.splice(i, 1);
          change();
        })
      : null,
  );
}

function foot(result, i) {
  if (!result?.done) return el("div", { class: "foot" });
  const { coherence } = result.steering || {};
  return el(
    "div",
    { class: "foot" },
    result.problem ? el("span", { class: "chip problem", role: "alert" }, result.problem) : null,
    hidden() ? null : verdictChip(coherence),
    el("span", { class: "chip" }, `${wordsOf(result.text)} words`),
    !running && voted === null && results.every((r) => r.done)
      ? button("This one is better", () => vote(i), { class: "chip act", "data-act": "vote" })
      : voted === i
        ? el("span", { class: "chip ok" }, "your choice")
        : null,
  );
}

// Only what grows is drawn while replies come.
function grow() {
  for (const node of root.querySelectorAll("[data-column]")) {
    const result = results[+node.dataset.column];
    node.querySelector(".said").textContent = result.text || "thinking…";
    if (result.done && !node.querySelector(".foot .chip"))
      node.querySelector(".foot").replaceWith(foot(result, +node.dataset.column));
  }
}

async function vote(i) {
  voted = i;
  const losers = kept.columns.map((_, j) => j).filter((j) => j !== i);
  kept.votes.push({
    question: results.question,
    seed: results.seed,
    blind: kept.blind,
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
    await api("feedback", "POST", { user: me(), kind: "ab", better, worse }).catch(
      (error) => error.status === 400 || toast(error.message, { problem: true }),
    );
}

function score() {
  if (!kept.votes.length) return null;
  const counts = {};
  for (const v of kept.votes)
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
      `Votes: ${kept.votes.length}, ${kept.votes.filter((v) => v.blind).length} of them blind`,
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
    button("Forget the votes", () => {
      kept.votes = [];
      save();
      draw();
    }),
  );
}

const json = () =>
  JSON.stringify(
    {
      question: results.question,
      seed: results.seed,
      sampling: talk.sampling,
      system: talk.system || null,
      columns: results.variants.map((v, i) => ({
        ...v,
        text: results[i].text,
        coherence: results[i].steering?.coherence ?? null,
        applied: results[i].steering?.applied ?? [],
        vote: voted === i,
      })),
    },
    null,
    2,
  );
const markdown = () =>
  `# ${results.question.replaceAll("\n", " ")}\n\nSeed ${results.seed}, ${Object.entries(
    talk.sampling,
  )
    .map(([k, v]) => `${k} ${v}`)
    .join(", ")}.\n\n` +
  results.variants
    .map(
      (v, i) =>
        `## ${v.name}${voted === i ? " (better)" : ""}\n\n${results[i].text
          .split("\n")
          .map((l) => `> ${l}`)
          .join(
            "\n",
          )}\n\nCoherence: ${results[i].steering?.coherence?.verdict ?? "not judged"}, ${wordsOf(results[i].text)} words.\n\n\`\`\`json\n${JSON.stringify(v.steering)}\n\`\`\`\n`,
    )
    .join("\n");
