// Conversation: its turns, the sampling settings, and the request for each reply.
import { api, modelId } from "../lib/api.js";
import { randomId } from "../lib/random.js";
import { readFromTab, saveInTab, userId } from "../lib/storage.js";
import {
  activeSteering,
  loadSteering,
  markSent,
  state,
  unchangedPresetName,
  whenLoaded,
} from "../panel/slider_state.js";
import { chatRequest } from "./chat_request.js";
import { streamReply } from "./reply_stream.js";

export const DEFAULT_SAMPLING = {
  temperature: 0.4,
  top_p: 0.9,
  repetition_penalty: 1.1,
  max_tokens: 160,
};
export const conversation = {
  turns: [],
  draft: "",
  system: "",
  sampling: { ...DEFAULT_SAMPLING },
  seed: 7,
  keepSeed: true,
  compare: true,
  edit: null,
  ...readFromTab("talk", {}),
  busy: null,
  waiting: "",
};
const MAX_TURNS = 200;
const REDRAW_MS = 40;
const CONNECTION_LOST =
  "the connection to the server was lost. The text so far is kept; try again when it is back.";
const listeners = [];

export const onConversationChange = (act) => listeners.push(act);
export function notifyChange(what = "turns") {
  if (what !== "reply") saveConversation();
  for (const act of listeners) act(what);
}

function saveConversation() {
  const { busy, waiting, problem, ...saved } = conversation;
  saveInTab("talk", saved);
}
// Page unload: a page that goes into the back/forward cache ends its replies. Any other page loses
// its streams, which is not a lost connection: after a reload the turn says that it was reloaded.
addEventListener("pagehide", (event) => {
  if (event.persisted) return stopReplies();
  saveConversation();
  conversation.busy = null;
});

// Replies that a reload cut off say so, and can be regenerated.
const RELOADED = "The page was reloaded before this reply was complete.";
for (const turn of conversation.turns) {
  turn.steering ??= turn.asked; // as an earlier version of the page stored it
  for (const side of [turn.default, turn.steered])
    if (side && !side.done) Object.assign(side, { done: true, problem: side.problem || RELOADED });
}

// Applies a preset's starter prompt, system prompt and sampling. The draft stays if it has changed
// since `draft`.
export function applyPreset(preset, draft = conversation.draft) {
  if (conversation.draft === draft) conversation.draft = preset?.starter_prompts[0] || draft;
  conversation.system = preset?.system_prompt || "";
  for (const [name, usual] of Object.entries(DEFAULT_SAMPLING))
    conversation.sampling[name] = preset?.sampling?.[name] ?? usual;
  notifyChange("form");
}

const newReply = () => ({ text: "", done: false });

// Sends a message to both sides, unless it is empty or a reply is still running.
export async function sendMessage(text = conversation.draft) {
  const question = text.trim();
  if (!question || !(await readyToAsk())) return;
  if (!conversation.keepSeed) conversation.seed = Math.floor(Math.random() * 1e6);
  const steering = activeSteering();
  const turn = {
    id: randomId(),
    question,
    steering,
    preset: state.preset,
    persona: unchangedPresetName(),
    seed: conversation.seed,
    default: conversation.compare ? newReply() : null,
    steered: newReply(),
  };
  const edit = text === conversation.draft && isEditing() ? conversation.edit : null,
    before = edit ? conversation.turns.pop() : null;
  conversation.edit = null;
  startTurn(
    turn,
    { system: conversation.system, sampling: { ...conversation.sampling } },
    before,
    edit,
  );
  if (text === conversation.draft) conversation.draft = "";
  notifyChange("form");
}

// Waits until the sliders are loaded; false if a reply is running or another call is waiting.
let preparing = false;
async function readyToAsk() {
  if (conversation.busy || preparing) return false;
  preparing = true;
  await whenLoaded();
  preparing = false;
  return !conversation.busy;
}

// Asks the last question again with the current sliders.
export async function regenerate() {
  if (!conversation.turns.length || !(await readyToAsk())) return;
  const last = conversation.turns.pop();
  const turn = {
    ...last,
    steering: activeSteering(),
    preset: state.preset,
    persona: unchangedPresetName(),
    seed: conversation.keepSeed ? conversation.seed : Math.floor(Math.random() * 1e6),
    default: conversation.compare ? newReply() : last.default,
    steered: newReply(),
  };
  startTurn(turn, { system: conversation.system, sampling: { ...conversation.sampling } }, last);
}

// Edit mode: the last question is in the composer. Its turn stays until the new one is sent;
// cancelling restores the draft.
export const isEditing = () =>
  Boolean(conversation.edit) && conversation.turns.at(-1)?.id === conversation.edit.id;

export function editLast() {
  if (conversation.busy || !conversation.turns.length || isEditing()) return;
  const { id, question } = conversation.turns.at(-1);
  conversation.edit = { id, draft: conversation.draft };
  conversation.draft = question;
  notifyChange("form");
}

export function cancelEdit() {
  if (!isEditing()) return;
  conversation.draft = conversation.edit.draft;
  conversation.edit = null;
  notifyChange("form");
}

export function clearConversation() {
  stopReplies();
  const gone = conversation.turns;
  conversation.turns = [];
  notifyChange("turns");
  return () => {
    conversation.turns = gone;
    notifyChange("turns");
  };
}

function startTurn(turn, options, before = null, edit = null) {
  turn.system = options.system;
  turn.sampling = options.sampling;
  const history = conversation.turns;
  conversation.turns = [...history, turn].slice(-MAX_TURNS);
  const busy = (conversation.busy = {
    turn,
    before,
    edit,
    control: new AbortController(),
    seen: Date.now(),
  });
  markSent();
  notifyChange("turns");
  receiveReplies(busy, history);
  watchConnection();
}

// Streams every side that has no reply yet. An error on one side ends both.
async function receiveReplies(busy, turns) {
  const { turn, control } = busy;
  const sides = ["steered", "default"].filter((side) => turn[side] && !turn[side].done);
  const options = { signal: control.signal, onChange: () => redrawReply(busy) };
  try {
    const about = { model: await modelId(), turn, turns, user: userId() };
    await Promise.all(
      sides.map((side) => streamReply(chatRequest(side, about), turn[side], options)),
    );
    if (conversation.busy === busy) finishTurn();
  } catch (error) {
    // A refused side ends the turn, whether or not the other side has begun to answer by then.
    const refused = error.status >= 400 && error.status < 500;
    if (conversation.busy === busy) failTurn(error.lost ? CONNECTION_LOST : error.message, refused);
  }
}

// Redraws at most every REDRAW_MS.
function redrawReply(busy) {
  busy.seen = Date.now();
  conversation.waiting = "";
  busy.redraw ??= setTimeout(() => {
    busy.redraw = null;
    if (conversation.busy === busy) notifyChange("reply");
  }, REDRAW_MS);
}

function finishTurn() {
  const { turn } = conversation.busy;
  for (const side of [turn.default, turn.steered]) if (side) side.done = true;
  conversation.busy = null;
  conversation.waiting = "";
  notifyChange("turns");
}

// Ends the turn with an error. Before the first token the question goes back into the composer;
// after it the text is kept, and each incomplete side says why it ended.
function failTurn(problem, refused) {
  const { turn, before, edit, control } = conversation.busy;
  const sides = [turn.default, turn.steered].filter(Boolean);
  const begun = !refused && sides.some((side) => side.text);
  control.abort();
  if (begun)
    for (const side of sides) {
      if (!side.done && !side.ended) side.problem = `The reply broke off here: ${problem}`;
    }
  else {
    conversation.turns = [
      ...conversation.turns.filter((t) => t !== turn),
      ...(before ? [before] : []),
    ];
    if ((!before || edit) && !conversation.draft) {
      conversation.draft = turn.question;
      conversation.edit = edit;
    }
  }
  conversation.problem = begun ? "" : problem;
  finishTurn();
  notifyChange("form");
  conversation.problem = "";
}

// Aborts the requests, which ends the generation on the server.
export function stopReplies() {
  if (!conversation.busy) return;
  const { turn, control } = conversation.busy;
  control.abort();
  for (const side of [turn.default, turn.steered])
    if (side && !side.done && !side.ended) side.stopped = true;
  finishTurn();
}

// Checks the server when nothing has arrived for a while: the request may be queued, or the
// connection lost.
async function watchConnection() {
  const busy = conversation.busy;
  while (conversation.busy === busy) {
    await new Promise((done) => setTimeout(done, 1500));
    if (conversation.busy !== busy || Date.now() - busy.seen < 1400) continue;
    try {
      const { requests } = await api("limits");
      const waiting = requests?.waiting || 0;
      conversation.waiting = waiting
        ? `the model is busy: ${waiting} ` +
          (waiting === 1 ? "request is waiting" : "requests are waiting")
        : "thinking…";
      notifyChange("reply");
    } catch (error) {
      if (error.lost && conversation.busy === busy) failTurn(CONNECTION_LOST);
    }
  }
}

// Restores the sliders, system prompt and sampling of a reply.
export async function restoreSliders(turn) {
  const missing = await loadSteering(turn.steering || { features: [], unit: "dose" }, {
    preset: turn.preset,
  });
  if (!missing) return null;
  Object.assign(conversation, {
    system: turn.system,
    sampling: { ...turn.sampling },
    seed: turn.seed,
  });
  notifyChange("form");
  return missing;
}

export async function sendThumb(turn, up) {
  await api("feedback", "POST", { user: userId(), kind: "thumb", up, steering: turn.steering });
  turn.thumb = up;
  notifyChange("turns");
}
