// Chat: two panes, the composer, and how replies are drawn.
import { baseModel, retryWhileLoading } from "../lib/api.js";
import { button, el, keepFocus, toast } from "../lib/dom.js";
import { personaCards } from "../panel/personas.js";
import { onRedraw } from "../panel/slider_state.js";
import {
  cancelEdit,
  clearConversation,
  conversation,
  editLast,
  isEditing,
  notifyChange,
  onConversationChange,
  regenerate,
  sendMessage,
  stopReplies,
} from "./conversation.js";
import { turnNode, waitingText } from "./reply.js";

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
  root.querySelector(".compose").replaceChildren(messageBox(), replyButtons(), samplingForm());
  onConversationChange((what) =>
    ({ turns: drawTurns, reply: drawLastTurn, form: drawForm })[what]?.(),
  );
  const drawCards = () => $("#cards").replaceChildren(...personaCards());
  onRedraw(drawCards);
  drawCards(); // the presets may have loaded before this module
  $(".switch").addEventListener(
    "click",
    (event) => event.target.dataset.pane && showPane(event.target.dataset.pane),
  );
  document.addEventListener("keydown", (event) => {
    if (
      event.key === "Escape" &&
      !event.defaultPrevented &&
      !document.querySelector("dialog[open]")
    )
      conversation.busy ? stopReplies() : cancelEdit();
  });
  showPane("steered");
  drawTurns();
  drawForm();
}

// On a phone only one pane is visible.
function showPane(pane) {
  document.body.dataset.pane = pane;
  for (const b of root.querySelectorAll(".switch button"))
    b.setAttribute("aria-pressed", b.dataset.pane === pane);
}

function messageBox() {
  const message = el("textarea", {
    rows: 1,
    placeholder: "Type a message…",
    "aria-label": "Message",
    "data-key": "message",
  });
  message.addEventListener("input", () => {
    conversation.draft = message.value;
    fitHeight(message);
    notifyChange("draft");
  });
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      sendMessage();
    }
  });
  return el(
    "div",
    { id: "composer" },
    el("div", { id: "message" }, message),
    button("Send", () => sendMessage(), { id: "send", class: "primary", title: "Enter" }),
    button("Stop", stopReplies, { id: "stop", class: "stop", title: "Escape" }),
  );
}

function fitHeight(message) {
  message.style.height = "auto";
  message.style.height = `${Math.min(160, message.scrollHeight + 2)}px`;
}

function replyButtons() {
  const compare = el("input", { type: "checkbox", id: "compare" });
  compare.addEventListener("change", () => {
    conversation.compare = compare.checked;
    notifyChange("form");
  });
  return el(
    "div",
    { id: "reply-actions" },
    button("Regenerate", regenerate, {
      id: "regenerate",
      title: "Ask the last question again with the current sliders",
    }),
    button("Edit last", toggleEdit, { id: "edit-last" }),
    button("Clear", clearWithUndo, { id: "clear" }),
    el("label", {}, compare, "Show Default"),
  );
}

function toggleEdit() {
  isEditing() ? cancelEdit() : editLast();
  $("#message textarea").focus();
}

function clearWithUndo() {
  const bring = clearConversation();
  toast("The conversation was cleared.", { act: ["Undo", bring] });
}

function samplingForm() {
  const number = ([name, label, range]) =>
    el(
      "label",
      {},
      label,
      el("input", {
        type: "number",
        id: name.replaceAll("_", "-"),
        ...range,
        onchange: (e) => setSampling(name, e.target),
      }),
    );
  const seed = el("input", {
    type: "number",
    id: "seed",
    min: 0,
    step: 1,
    onchange: (e) => {
      conversation.seed = Math.max(0, Math.round(+e.target.value) || 0);
      notifyChange("form");
    },
  });
  const keep = el("input", {
    type: "checkbox",
    id: "keep-seed",
    onchange: (e) => {
      conversation.keepSeed = e.target.checked;
      notifyChange("form");
    },
  });
  const system = el("textarea", {
    id: "system",
    rows: 2,
    oninput: (e) => {
      conversation.system = e.target.value;
      notifyChange("draft");
    },
  });
  retryWhileLoading(baseModel).then(({ default_system_prompt: own }) => {
    if (own) system.placeholder = `Without one, the model is told: “${own}”`;
  }, console.error);
  return el(
    "details",
    { id: "sampling" },
    el("summary", {}, "Sampling and system prompt"),
    el("div", { class: "sampling-fields" }, NUMBERS.map(number), el("label", {}, "Seed", seed)),
    el(
      "div",
      { class: "seed-fields" },
      el("label", {}, keep, "Keep the seed (same seed, same reply)"),
      button(
        "New seed",
        () => {
          conversation.seed = Math.floor(Math.random() * 1e6);
          notifyChange("form");
        },
        { id: "new-seed" },
      ),
    ),
    el("label", {}, "System prompt, for both panes", system),
  );
}

function setSampling(name, field) {
  const value =
    field.value === "" ? null : Math.min(+field.max, Math.max(+field.min, +field.value));
  conversation.sampling[name] = name === "max_tokens" && value ? Math.round(value) : value;
  notifyChange("form");
}

function drawForm() {
  const message = $("#message textarea");
  if (message.value !== conversation.draft) {
    message.value = conversation.draft;
    fitHeight(message);
  }
  for (const [name] of NUMBERS)
    $(`#${name.replaceAll("_", "-")}`).value = conversation.sampling[name] ?? "";
  drawEditButton();
  $("#seed").value = conversation.seed;
  $("#keep-seed").checked = conversation.keepSeed;
  $("#system").value = conversation.system;
  $("#compare").checked = conversation.compare;
  document.body.dataset.compare = conversation.compare ? "on" : "off";
  if (conversation.problem)
    $(".refusal").replaceChildren(
      el("span", { class: "chip problem", role: "alert" }, `No reply: ${conversation.problem}`),
    );
}

function drawTurns() {
  $(".refusal").replaceChildren();
  root.classList.toggle("empty", !conversation.turns.length);
  for (const side of SIDES) {
    const log = $(`#${side}-pane .log`);
    keepFocus(log, () =>
      log.replaceChildren(
        ...(conversation.turns.length
          ? conversation.turns.map((turn) => turnNode(turn, side))
          : [placeholder(side)]),
      ),
    );
    log.scrollTop = log.scrollHeight;
  }
  drawButtons();
}

const placeholder = (side) =>
  el(
    "p",
    { class: "placeholder" },
    side === "default"
      ? "The model as it is."
      : "The same model, same message, same seed: with your sliders.",
  );

// Redraws the last turn only, and scrolls with it unless the user has scrolled up. While the reply
// waits, only the waiting text changes, so that a screen reader does not read the question again.
function drawLastTurn() {
  const turn = conversation.turns.at(-1);
  for (const side of SIDES) {
    const log = $(`#${side}-pane .log`),
      follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    const waiting = turn && waitingText(turn[side]),
      waitingNode = log.lastElementChild?.querySelector(".waiting-text");
    if (waiting && waitingNode) {
      if (waitingNode.textContent !== waiting) waitingNode.textContent = waiting;
    } else if (turn) log.lastElementChild?.replaceWith(turnNode(turn, side));
    if (follows) log.scrollTop = log.scrollHeight;
  }
}

function drawButtons() {
  const busy = Boolean(conversation.busy);
  $("#send").hidden = busy;
  $("#stop").hidden = !busy;
  for (const id of ["#regenerate", "#edit-last"])
    $(id).disabled = busy || !conversation.turns.length;
  drawEditButton();
  $("#clear").disabled = !conversation.turns.length;
}

const drawEditButton = () => {
  $("#edit-last").textContent = isEditing() ? "Cancel edit" : "Edit last";
};
