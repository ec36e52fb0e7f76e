// Links that carry everything in their fragment, which no browser sends to a server. Opening one sets the sliders and sends nothing.
import { HERE, model } from "../lib/api.js";
import { signed } from "./dose.js";
import { copyButton, el, openDialog } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { state, steering, take } from "./slider_state.js";
import { talk, tell } from "../chat/conversation.js";

const VERSION = 1,
  LONGEST = 100_000;

function packed(value) {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  return btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

function unpacked(text) {
  const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return JSON.parse(
    new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(raw, (c) => c.charCodeAt(0))),
  );
}

function shared(of, wanted) {
  const { temperature, top_p, repetition_penalty, max_tokens } = talk.sampling;
  return {
    v: VERSION,
    model: of,
    preset: state.preset || undefined,
    steering: steering(),
    seed: talk.seed,
    sampling: { temperature, top_p, repetition_penalty, max_tokens },
    ...(wanted.system && talk.system ? { system: talk.system } : {}),
    ...(wanted.question && question() ? { question: question() } : {}),
  };
}
const question = () => (talk.draft || talk.turns.at(-1)?.question || "").trim();

export async function showShare() {
  try {
    const of = await model(),
      wanted = { question: false, system: true };
    const link = el("input", {
        type: "text",
        readonly: true,
        id: "share-link",
        "aria-label": "The link",
      }),
      inside = el("ul", { class: "inside" });
    const draw = () => {
      link.value = `${HERE}#s=${packed(shared(of, wanted))}`;
      inside.replaceChildren(
        ...[
          `${state.rows.length} sliders${
            state.rows.length
              ? ": " +
                state.rows
                  .slice(0, 4)
                  .map((r) => `${r.label} ${signed(r.strength)}`)
                  .join(", ")
              : ""
          }`,
          `strength ×${state.scale}, seed ${talk.seed}, sampling`,
          wanted.system && talk.system ? `the system prompt: “${talk.system.slice(0, 120)}”` : null,
          wanted.question && question() ? `the question: “${question().slice(0, 120)}”` : null,
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
          checked: wanted[name],
          id: `share-${name}`,
          onchange: (e) => {
            wanted[name] = e.target.checked;
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
        "The link holds everything itself; nothing is stored on a server or sent when it is opened. In it:",
      ),
      inside,
      el(
        "div",
        { class: "ticks-of" },
        box("question", "with the question", question()),
        box("system", "with the system prompt", talk.system),
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

// What a link brings, if the page was opened with one.
export async function openShared() {
  const text = new URLSearchParams(location.hash.slice(1)).get("s");
  if (!text) return;
  history.replaceState(null, "", location.pathname + location.search);
  let given;
  try {
    given = text.length > LONGEST ? null : unpacked(text);
    if (given?.v !== VERSION || !Array.isArray(given.steering?.features)) throw new Error();
  } catch {
    return notice("This link cannot be read: it was cut off, or made by a newer version.", true);
  }
  try {
    const here = await model(),
      missing = await take(given.steering, {
        preset: state.presets.some((p) => p.id === given.preset) ? given.preset : "",
      });
    if (!missing) return;
    fill(given);
    const other = given.model !== here ? `It was made for ${given.model}; this is ${here}. ` : "";
    notice(
      `The sliders of the link are set; nothing was sent. ${other}${missing.length ? `Not here, and left out: ${missing.join(", ")}.` : ""}`,
      missing.length > 0,
    );
  } catch (error) {
    notice(error.message, true);
  }
}

function fill({ seed, sampling, system, question }) {
  if (Number.isFinite(seed)) talk.seed = seed;
  for (const name of Object.keys(talk.sampling))
    if (Number.isFinite(sampling?.[name])) talk.sampling[name] = sampling[name];
  if (typeof system === "string") talk.system = system;
  if (typeof question === "string") talk.draft = question;
  tell("form");
}
