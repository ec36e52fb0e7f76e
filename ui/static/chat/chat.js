// The chat: two panes, the box to type in, and how replies are drawn. Knows the page; what is said is talk's.
import { button, el, keepFocus, toast } from "../lib/dom.js";
import { onDraw } from "../panel/slider_state.js";
import { cards } from "../panel/personas.js";
import { silent, turnNode } from "./reply.js";
import {
  clear,
  editing,
  editLast,
  leaveEdit,
  onTalk,
  regenerate,
  send,
  stop,
  talk,
  tell,
} from "./conversation.js";

const SIDES = ["default", "steered"];
const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }],
  ["top_p", "Top-p", { min: 0.05, max: 1, step: 0.05 }],
  ["repetition_penalty", "Repetition penalty", { min: 0.5, max: 2, step: 0.05 }],
  ["max_tokens", "Max tokens", { min: 1, max: 8192, step: 1 }],
];
let root;
const $ = (selector) => root.querySelector(selector);

export function mount(element) {
  root = element.querySelector(".chat");
  root.querySelector(".compose").replaceChildren(box(), again(), drawing());
  onTalk((what) => ({ turns: drawTurns, reply: drawLast, form: drawForm })[what]?.());
  const drawCards = () => $("#cards").replaceChildren(...cards());
  onDraw(drawCards);
  drawCards(); // the personas may have come before this part of the page did
  $(".switch").addEventListener(
    "click",
    (event) => event.target.dataset.pane && show(event.target.dataset.pane),
  );
  document.addEventListener("keydown", (event) => {
    if (
      event.key === "Escape" &&
      !event.defaultPrevented &&
      !document.querySelector("dialog[open]")
    )
      talk.busy ? stop() : leaveEdit();
  });
  show("steered");
  drawTurns();
  drawForm();
}

// On a phone there is room for one pane: which one.
function show(pane) {
  document.body.dataset.pane = pane;
  for (const b of root.querySelectorAll(".switch button"))
    b.setAttribute("aria-pressed", b.dataset.pane === pane);
}

function box() {
  const message = el("textarea", {
    rows: 1,
    placeholder: "Type a message…",
    "aria-label": "Message",
    "data-key": "message",
  });
  message.addEventListener("input", () => {
    talk.draft = message.value;
    grow(message);
    tell("kept");
  });
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  return el(
    "div",
    { id: "ask" },
    el("div", { id: "message" }, message),
    button("Send", () => send(), { id: "send", class: "primary", title: "Enter" }),
    button("Stop", stop, { id: "stop", class: "stop", title: "Escape" }),
  );
}

function grow(message) {
  message.style.height = "auto";
  message.style.height = `${Math.min(160, message.scrollHeight + 2)}px`;
}

function again() {
  const compare = el("input", { type: "checkbox", id: "compare" });
  compare.addEventListener("change", () => {
    talk.compare = compare.checked;
    tell("form");
  });
  return el(
    "div",
    { id: "again" },
    button("Regenerate", regenerate, {
      id: "regenerate",
      title: "The last question again, with the sliders as they are now",
    }),
    button("Edit last", edit, { id: "edit-last" }),
    button("Clear", wipe, { id: "clear" }),
    el("label", {}, compare, "Show Default"),
  );
}

function edit() {
  editing() ? leaveEdit() : editLast();
  $("#message textarea").focus();
}

function wipe() {
  const bring = clear();
  toast("The conversation was cleared.", { act: ["Undo", bring] });
}

function drawing() {
  const number = ([name, label, range]) =>
    el(
      "label",
      {},
      label,
      el("input", {
        type: "number",
        id: name.replaceAll("_", "-"),
        ...range,
        onchange: (e) => set(name, e.target),
      }),
    );
  const seed = el("input", {
    type: "number",
    id: "seed",
    min: 0,
    step: 1,
    onchange: (e) => {
      talk.seed = Math.max(0, Math.round(+e.target.value) || 0);
      tell("form");
    },
  });
  const keep = el("input", {
    type: "checkbox",
    id: "keep-seed",
    onchange: (e) => {
      talk.keepSeed = e.target.checked;
      tell("form");
    },
  });
  const system = el("textarea", {
    id: "system",
    rows: 2,
    oninput: (e) => {
      talk.system = e.target.value;
      tell("kept");
    },
  });
  return el(
    "details",
    { id: "sampling" },
    el("summary", {}, "Sampling and system prompt"),
    el("div", { class: "knobs" }, NUMBERS.map(number), el("label", {}, "Seed", seed)),
    el(
      "div",
      { class: "seeds" },
      el("label", {}, keep, "Keep the seed (same seed, same reply)"),
      button(
        "New seed",
        () => {
          talk.seed = Math.floor(Math.random() * 1e6);
          tell("form");
        },
        { id: "dice" },
      ),
    ),
    el("label", {}, "System prompt, for both panes", system),
  );
}

function set(name, field) {
  const given =
    field.value === "" ? null : Math.min(+field.max, Math.max(+field.min, +field.value));
  talk.sampling[name] = name === "max_tokens" && given ? Math.round(given) : given;
  tell("form");
}

function drawForm() {
  const message = $("#message textarea");
  if (message.value !== talk.draft) {
    message.value = talk.draft;
    grow(message);
  }
  for (const [name] of NUMBERS)
    $(`#${name.replaceAll("_", "-")}`).value = talk.sampling[name] ?? "";
  drawEdit();
  $("#seed").value = talk.seed;
  $("#keep-seed").checked = talk.keepSeed;
  $("#system").value = talk.system;
  $("#compare").checked = talk.compare;
  document.body.dataset.compare = talk.compare ? "on" : "off";
  if (talk.problem)
    $(".refused").replaceChildren(
      el("span", { class: "chip problem", role: "alert" }, `No reply: ${talk.problem}`),
    );
}

function drawTurns() {
  $(".refused").replaceChildren();
  root.classList.toggle("empty", !talk.turns.length);
  for (const side of SIDES) {
    const log = $(`#${side}-pane .log`);
    keepFocus(log, () =>
      log.replaceChildren(
        ...(talk.turns.length
          ? talk.turns.map((turn) => turnNode(turn, side))
          : [placeholder(side)]),
      ),
    );
    log.scrollTop = log.scrollHeight;
  }
  drawBusy();
}

const placeholder = (side) =>
  el(
    "p",
    { class: "placeholder" },
    side === "default"
      ? "The model as it is."
      : "The same model, same message, same seed: with your sliders.",
  );

// Only the reply that grows is drawn, and the view follows it unless somebody scrolled up to read. While it waits, only those words
// change, so that a screen reader does not read the question again with each of them.
function drawLast() {
  const turn = talk.turns.at(-1);
  for (const side of SIDES) {
    const log = $(`#${side}-pane .log`),
      follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    const words = turn && silent(turn[side]),
      place = log.lastElementChild?.querySelector(".silent");
    if (words && place) {
      if (place.textContent !== words) place.textContent = words;
    } else if (turn) log.lastElementChild?.replaceWith(turnNode(turn, side));
    if (follows) log.scrollTop = log.scrollHeight;
  }
}

function drawBusy() {
  const busy = Boolean(talk.busy);
  $("#send").hidden = busy;
  $("#stop").hidden = !busy;
  for (const id of ["#regenerate", "#edit-last"]) $(id).disabled = busy || !talk.turns.length;
  drawEdit();
  $("#clear").disabled = !talk.turns.length;
}

const drawEdit = () => {
  $("#edit-last").textContent = editing() ? "Leave it as it was" : "Edit last";
};
