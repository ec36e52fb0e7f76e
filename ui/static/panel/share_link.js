// Share links: the state is in the URL fragment, which browsers do not send. Opening a link sets
// the sliders and sends nothing.
import { conversation, notifyChange } from "../chat/conversation.js";
import { PAGE_URL, modelId } from "../lib/api.js";
import { copyButton, el, openDialog } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { formatSigned } from "./dose.js";
import { loadSteering, state, steering } from "./slider_state.js";

const VERSION = 1,
  MAX_LINK = 100_000;

function encode(value) {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  return btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

function decode(text) {
  const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return JSON.parse(
    new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(raw, (c) => c.charCodeAt(0))),
  );
}

function sharedState(model, included) {
  const { temperature, top_p, repetition_penalty, max_tokens } = conversation.sampling;
  return {
    v: VERSION,
    model: model,
    preset: state.preset || undefined,
    steering: steering(),
    seed: conversation.seed,
    sampling: { temperature, top_p, repetition_penalty, max_tokens },
    ...(included.system && conversation.system ? { system: conversation.system } : {}),
    ...(included.question && currentQuestion() ? { question: currentQuestion() } : {}),
  };
}
const currentQuestion = () =>
  (conversation.draft || conversation.turns.at(-1)?.question || "").trim();

export async function showShare() {
  try {
    const model = await modelId(),
      included = { question: false, system: true };
    const link = el("input", {
        type: "text",
        readonly: true,
        id: "share-link",
        "aria-label": "The link",
      }),
      inside = el("ul", { class: "share-contents" });
    const draw = () => {
      link.value = `${PAGE_URL}#s=${encode(sharedState(model, included))}`;
      inside.replaceChildren(
        ...[
          `${state.rows.length} sliders${
            state.rows.length
              ? ": " +
                state.rows
                  .slice(0, 4)
                  .map((r) => `${r.label} ${formatSigned(r.strength)}`)
                  .join(", ")
              : ""
          }`,
          `strength ×${state.scale}, seed ${conversation.seed}, sampling`,
          included.system && conversation.system
            ? `the system prompt: “${conversation.system.slice(0, 120)}”`
            : null,
          included.question && currentQuestion()
            ? `the question: “${currentQuestion().slice(0, 120)}”`
            : null,
        ]
          .filter(Boolean)
          .map((t) => el("li", {}, t)),
      );
    };
    const box = (name, words, on) =>
      on &&
      el(
        "label",
        {},
        el("input", {
          type: "checkbox",
          checked: included[name],
          id: `share-${name}`,
          onchange: (e) => {
            included[name] = e.target.checked;
            draw();
          },
        }),
        words,
      );
    draw();
    openDialog(
      "Share these sliders",
      el(
        "p",
        { class: "hint" },
        "The link contains everything; nothing is stored on a server, and opening it sends " +
          "nothing. It contains:",
      ),
      inside,
      el(
        "div",
        { class: "share-options" },
        box("question", "include the question", currentQuestion()),
        box("system", "include the system prompt", conversation.system),
      ),
      el(
        "div",
        { class: "bar" },
        link,
        copyButton(() => link.value, "Copy link"),
      ),
    );
  } catch (error) {
    notice(error.message, true);
  }
}

// Applies the link that the page was opened with, if any.
export async function openShared() {
  const text = new URLSearchParams(location.hash.slice(1)).get("s");
  if (!text) return;
  history.replaceState(null, "", location.pathname + location.search);
  let shared;
  try {
    shared = text.length > MAX_LINK ? null : decode(text);
    if (shared?.v !== VERSION || !Array.isArray(shared.steering?.features)) throw new Error();
  } catch {
    return notice("This link cannot be read: it was cut off, or made by a newer version.", true);
  }
  try {
    const here = await modelId(),
      missing = await loadSteering(shared.steering, {
        preset: state.presets.some((p) => p.id === shared.preset) ? shared.preset : "",
      });
    if (!missing) return;
    applyShared(shared);
    const other = shared.model !== here ? `It was made for ${shared.model}; this is ${here}. ` : "";
    notice(
      "The sliders of the link are set; nothing was sent. " +
        other +
        (missing.length ? `Not on this server, and left out: ${missing.join(", ")}.` : ""),
      missing.length > 0,
    );
  } catch (error) {
    notice(error.message, true);
  }
}

function applyShared({ seed, sampling, system, question }) {
  if (Number.isFinite(seed)) conversation.seed = seed;
  for (const name of Object.keys(conversation.sampling))
    if (Number.isFinite(sampling?.[name])) conversation.sampling[name] = sampling[name];
  if (typeof system === "string") conversation.system = system;
  if (typeof question === "string") conversation.draft = question;
  notifyChange("form");
}
