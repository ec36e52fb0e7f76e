// One turn in one pane: the question, the reply with its tokens, and below it what made it and how it holds together.
import { signed } from "../panel/dose.js";
import { button, el, icon, sign, toast } from "../lib/dom.js";
import { ease } from "../panel/slider_state.js";
import { restore, talk, thumb } from "./conversation.js";
import { warnedNode } from "./warnings.js";

const FEW = 3;
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
      { class: "turn unasked" },
      question(turn),
      el("p", { class: "quiet" }, "not asked"),
    );
  return el(
    "div",
    { class: "turn" },
    question(turn),
    el("div", { class: "bot-row" }, said(reply)),
    notes(turn, side, reply),
  );
}

const question = (turn) => el("div", { class: "user-row" }, turn.question);

// What stands where the first words will; "" once they are there.
export function silent(reply) {
  if (!reply || reply.text || reply.done) return "";
  if (reply.before == null) return talk.waiting || "thinking…";
  return `waiting for room: ${reply.before ? `${reply.before} before you` : "you are next"}`;
}

// Each token with how likely it was, where that is known and the pieces are the text.
function said(reply) {
  if (silent(reply)) return el("p", { class: "said quiet silent" }, silent(reply));
  const pieces = reply.tokens || [];
  if (!reply.done || pieces.map((t) => t.token).join("") !== reply.text)
    return el("p", { class: "said" }, reply.text);
  return el(
    "p",
    { class: "said tokens" },
    pieces.map((t) =>
      el(
        "span",
        { class: `token p${Math.min(4, Math.floor(Math.exp(t.logprob) * 5))}`, title: chances(t) },
        t.token,
      ),
    ),
  );
}

const percentOf = (logprob) => {
  const p = 100 * Math.exp(logprob);
  return p < 0.1 ? "<0.1 %" : `${p.toFixed(p < 10 ? 1 : 0)} %`;
};
const chances = ({ token, logprob, top }) =>
  [
    `“${token}” ${percentOf(logprob)}`,
    ...top.map(([other, lp]) => `${percentOf(lp)}  ${other}`),
  ].join("\n");

function notes(turn, side, reply) {
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
    problemOf(reply),
    chips,
    el(
      "span",
      { class: "tools" },
      icon(sign("copy"), "Copy the reply", (event) => copy(event.currentTarget, reply.text)),
      side === "steered" && turn.asked?.features.length ? thumbs(turn) : null,
    ),
  );
}

const problemOf = (reply) =>
  reply.problem
    ? el("span", { class: "chip problem", role: "alert" }, reply.problem)
    : reply.stopped
      ? chip("stopped")
      : null;

async function copy(button, text) {
  await navigator.clipboard.writeText(text).catch(() => {});
  button.replaceChildren(sign("done"));
}

const thumbs = (turn) =>
  [
    [true, "up", "Good reply"],
    [false, "down", "Bad reply"],
  ].map(([up, name, words]) =>
    icon(
      sign(name),
      words,
      () => thumb(turn, up).catch((error) => toast(error.message, { problem: true })),
      { "aria-pressed": String(turn.thumb === up) },
    ),
  );

function steeredChips(turn, reply) {
  const { warnings = [], applied, coherence } = reply.steering || {};
  return [verdict(coherence), made(turn, reply.steering || {}), warnedNode(warnings, applied)];
}

export function verdictChip(coherence) {
  if (!VERDICTS[coherence?.verdict]) return null;
  const { verdict, repetition, mean_logprob_unsteered } = coherence;
  return chip(
    VERDICTS[verdict],
    `verdict ${verdict}`,
    `repeats itself ${Math.round(100 * repetition)} %; ${mean_logprob_unsteered.toFixed(1)} nats a token to the default model`,
  );
}

function verdict(coherence) {
  const chip = verdictChip(coherence);
  return [
    chip,
    !chip || coherence.verdict === "ok"
      ? null
      : button("Ease off: halve the strength", ease, { class: "chip act", "data-act": "ease" }),
  ];
}

// What the reply was made with; a click puts the sliders back there. Of a reply that broke off before that was told nobody knows it.
function made(turn, { applied, load }) {
  if (!applied) return null;
  if (!applied.length) return chip("not steered");
  const words = applied.map((a) => `${a.label || a.id} ${amount(a)}`);
  const label = turn.persona
    ? `${turn.persona} ×${turn.asked.scale.toFixed(2)}`
    : applied.length > FEW
      ? `${words[0]} + ${applied.length - 1} more`
      : words.join(" · ");
  return el(
    "button",
    {
      type: "button",
      class: "chip act",
      title: `Made with ${words.join(", ")}; ${load == null ? "" : `load ${load.toFixed(2)}, `}seed ${turn.seed}.\nClick to put the sliders back there.`,
      "aria-label": `Put the sliders back to ${words.join(", ")}`,
      "data-act": "restore",
      onclick: () => back(turn),
    },
    `${label} · seed ${turn.seed}`,
  );
}

async function back(turn) {
  try {
    const missing = await restore(turn);
    if (!missing) return;
    toast(
      missing.length
        ? `These features are not there any more: ${missing.join(", ")}.`
        : "The sliders are as they were for this reply.",
      { problem: missing.length > 0 },
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
}

export function amount(applied) {
  if (applied.mode === "ablate") return "off";
  return applied.mode === "scale" ? `×${applied.strength.toFixed(2)}` : signed(applied.dose);
}

export const chip = (text, kind = "", title = "") =>
  el("span", { class: `chip ${kind}`, title: title || text }, text);
