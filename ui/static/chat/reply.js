// Turn: one question in one pane, the reply with its tokens, and the chips below it.
import { button, el, icon, svgIcon, toast } from "../lib/dom.js";
import { formatSigned } from "../panel/dose.js";
import { halveStrength } from "../panel/slider_state.js";
import { conversation, restoreSliders, sendThumb } from "./conversation.js";
import { warningsNode } from "./warnings.js";

const MAX_NAMED = 3;
const VERDICTS = {
  ok: "coherence: OK",
  strained: "coherence: strained",
  broken: "coherence: broken",
};

export function turnNode(turn, side) {
  const reply = turn[side];
  if (!reply)
    return el(
      "div",
      { class: "turn not-asked" },
      questionNode(turn),
      el("p", { class: "quiet" }, "not asked"),
    );
  return el(
    "div",
    { class: "turn" },
    questionNode(turn),
    el("div", { class: "bot-row" }, replyNode(reply)),
    notesNode(turn, side, reply),
  );
}

const questionNode = (turn) => el("div", { class: "user-row" }, turn.question);

// The text shown until the first token; "" after that.
export function waitingText(reply) {
  if (!reply || reply.text || reply.done) return "";
  if (reply.before == null) return conversation.waiting || "thinking…";
  return `in the queue: ${reply.before ? `${reply.before} before you` : "you are next"}`;
}

// The reply's text; as tokens with their probabilities where they join to exactly that text.
function replyNode(reply) {
  if (waitingText(reply))
    return el("p", { class: "reply-text quiet waiting-text" }, waitingText(reply));
  const pieces = reply.tokens || [];
  if (!reply.done || pieces.map((t) => t.token).join("") !== reply.text)
    return el("p", { class: "reply-text" }, reply.text);
  return el(
    "p",
    { class: "reply-text tokens" },
    pieces.map((t) =>
      el(
        "span",
        {
          class: `token p${Math.min(4, Math.floor(Math.exp(t.logprob) * 5))}`,
          title: tokenTitle(t),
        },
        t.token,
      ),
    ),
  );
}

const formatProbability = (logprob) => {
  const p = 100 * Math.exp(logprob);
  return p < 0.1 ? "<0.1 %" : `${p.toFixed(p < 10 ? 1 : 0)} %`;
};
const tokenTitle = ({ token, logprob, top }) =>
  [
    `“${token}” ${formatProbability(logprob)}`,
    ...top.map(([other, lp]) => `${formatProbability(lp)}  ${other}`),
  ].join("\n");

function notesNode(turn, side, reply) {
  if (!reply.done) return el("div", { class: "notes" });
  const chips =
    side === "steered"
      ? steeredChips(turn, reply)
      : [
          chip("not steered"),
          chip(`seed ${turn.seed} · temperature ${turn.sampling.temperature ?? 1}`),
        ];
  return el(
    "div",
    { class: "notes" },
    problemChip(reply),
    chips,
    el(
      "span",
      { class: "tools" },
      icon(svgIcon("copy"), "Copy the reply", (event) =>
        copyReply(event.currentTarget, reply.text),
      ),
      side === "steered" && turn.steering?.features.length ? thumbButtons(turn) : null,
    ),
  );
}

const problemChip = (reply) =>
  reply.problem
    ? el("span", { class: "chip problem", role: "alert" }, reply.problem)
    : reply.stopped
      ? chip("stopped")
      : null;

async function copyReply(button, text) {
  await navigator.clipboard.writeText(text).catch(() => {});
  button.replaceChildren(svgIcon("done"));
}

const thumbButtons = (turn) =>
  [
    [true, "up", "Good reply"],
    [false, "down", "Bad reply"],
  ].map(([up, name, labels]) =>
    icon(
      svgIcon(name),
      labels,
      () => sendThumb(turn, up).catch((error) => toast(error.message, { problem: true })),
      { "aria-pressed": String(turn.thumb === up) },
    ),
  );

function steeredChips(turn, reply) {
  const { warnings = [], applied, coherence } = reply.steering || {};
  return [
    verdictNodes(coherence),
    restoreChip(turn, reply.steering || {}),
    warningsNode(warnings, applied),
  ];
}

export function verdictChip(coherence) {
  if (!VERDICTS[coherence?.verdict]) return null;
  const { verdict, repetition, mean_logprob_unsteered } = coherence;
  return chip(
    VERDICTS[verdict],
    `verdict ${verdict}`,
    `repetition ${Math.round(100 * repetition)} %; mean log-probability ` +
      `${mean_logprob_unsteered.toFixed(1)} nats per token under the default model`,
  );
}

function verdictNodes(coherence) {
  const chip = verdictChip(coherence);
  return [
    chip,
    !chip || coherence.verdict === "ok"
      ? null
      : button("Halve the strength", halveStrength, {
          class: "chip act",
          "data-act": "ease",
        }),
  ];
}

// The steering of the reply; a click restores the sliders. Missing where the stream ended before
// the server sent it.
function restoreChip(turn, { applied, load }) {
  if (!applied) return null;
  if (!applied.length) return chip("not steered");
  const labels = applied.map((a) => `${a.label || a.id} ${formatStrength(a)}`);
  const label = turn.persona
    ? `${turn.persona} ×${turn.steering.scale.toFixed(2)}`
    : applied.length > MAX_NAMED
      ? `${labels[0]} + ${applied.length - 1} more`
      : labels.join(" · ");
  return el(
    "button",
    {
      type: "button",
      class: "chip act",
      title:
        `Made with ${labels.join(", ")}; ` +
        `${load == null ? "" : `load ${load.toFixed(2)}, `}seed ${turn.seed}.\nClick to ` +
        "restore these sliders.",
      "aria-label": `Restore the sliders to ${labels.join(", ")}`,
      "data-act": "restore",
      onclick: () => restoreWithToast(turn),
    },
    `${label} · seed ${turn.seed}`,
  );
}

async function restoreWithToast(turn) {
  try {
    const missing = await restoreSliders(turn);
    if (!missing) return;
    toast(
      missing.length
        ? `These features no longer exist: ${missing.join(", ")}.`
        : "The sliders are set as they were for this reply.",
      { problem: missing.length > 0 },
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
}

export function formatStrength(applied) {
  if (applied.mode === "ablate") return "off";
  return applied.mode === "scale" ? `×${applied.strength.toFixed(2)}` : formatSigned(applied.dose);
}

export const chip = (text, kind = "", title = "") =>
  el("span", { class: `chip ${kind}`, title: title || text }, text);
