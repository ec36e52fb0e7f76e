// Conversation: its turns, the sampling settings, and the request for each reply.
import { api, model } from "../lib/api.js";
import { randomId } from "../lib/random.js";
import { keepInTab, me, ofTab } from "../lib/storage.js";
import { chatRequest } from "./chat_request.js";
import { streamReply } from "./reply_stream.js";
import { asked, asMade, markSent, settled, state, take } from "../panel/slider_state.js";

export const DRAWN = { temperature: 0.5, top_p: 1, repetition_penalty: 1, max_tokens: 160 };
export const talk = {
  turns: [],
  draft: "",
  system: "",
  sampling: { ...DRAWN },
  seed: 7,
  keepSeed: true,
  compare: true,
  edit: null,
  ...ofTab("talk", {}),
  busy: null,
  waiting: "",
};
const LONGEST = 200;
const REDRAW_MS = 40;
const CONNECTION_LOST =
  "the connection to the server was lost. What was said is kept; ask again when it is back.";
const followers = [];

export const onTalk = (act) => followers.push(act);
export function tell(what = "turns") {
  if (what !== "reply") keep();
  for (const act of followers) act(what);
}

function keep() {
  const { busy, waiting, problem, ...kept } = talk;
  keepInTab("talk", kept);
}
// A page that the browser keeps for going back would go on streaming. One that goes for good loses its streams, which is no
// lost connection: the next page says that it was reloaded.
addEventListener("pagehide", (event) => {
  if (event.persisted) return stop();
  keep();
  talk.busy = null;
});

// What was cut off by a reload says so, and can be asked again.
for (const turn of talk.turns)
  for (const side of [turn.default, turn.steered])
    if (side && !side.done)
      Object.assign(side, {
        done: true,
        problem: side.problem || "The page was reloaded while this was said.",
      });

// A persona brings its first question, system prompt and sampling; what was typed since `draft` stays.
export function begin(preset, draft = talk.draft) {
  if (talk.draft === draft) talk.draft = preset?.starter_prompts[0] || draft;
  talk.system = preset?.system_prompt || "";
  for (const [name, usual] of Object.entries(DRAWN))
    talk.sampling[name] = preset?.sampling?.[name] ?? usual;
  tell("form");
}

const fresh = () => ({ text: "", done: false });

// Asks both sides. Nothing is sent without a word to say, or while a reply is on its way.
export async function send(words = talk.draft) {
  const question = words.trim();
  if (!question || !(await free())) return;
  if (!talk.keepSeed) talk.seed = Math.floor(Math.random() * 1e6);
  const steering = asked();
  const turn = {
    id: randomId(),
    question,
    asked: steering,
    preset: state.preset,
    persona: asMade(),
    seed: talk.seed,
    default: talk.compare ? fresh() : null,
    steered: fresh(),
  };
  const edit = words === talk.draft && editing() ? talk.edit : null,
    before = edit ? talk.turns.pop() : null;
  talk.edit = null;
  ask(turn, { system: talk.system, sampling: { ...talk.sampling } }, before, edit);
  if (words === talk.draft) talk.draft = "";
  tell("form");
}

// Whether one may ask now: the sliders are as they were chosen, and nobody else asks.
let asking = false;
async function free() {
  if (talk.busy || asking) return false;
  asking = true;
  await settled();
  asking = false;
  return !talk.busy;
}

// The last question again, with the sliders as they are now.
export async function regenerate() {
  if (!talk.turns.length || !(await free())) return;
  const last = talk.turns.pop();
  const turn = {
    ...last,
    asked: asked(),
    preset: state.preset,
    persona: asMade(),
    seed: talk.keepSeed ? talk.seed : Math.floor(Math.random() * 1e6),
    default: talk.compare ? fresh() : last.default,
    steered: fresh(),
  };
  ask(turn, { system: talk.system, sampling: { ...talk.sampling } }, last);
}

// Takes the last question into the box; its turn stays until the new one is sent, and what was in the box comes back if it is not.
export const editing = () => Boolean(talk.edit) && talk.turns.at(-1)?.id === talk.edit.id;

export function editLast() {
  if (talk.busy || !talk.turns.length || editing()) return;
  const { id, question } = talk.turns.at(-1);
  talk.edit = { id, draft: talk.draft };
  talk.draft = question;
  tell("form");
}

export function leaveEdit() {
  if (!editing()) return;
  talk.draft = talk.edit.draft;
  talk.edit = null;
  tell("form");
}

export function clear() {
  stop();
  const gone = talk.turns;
  talk.turns = [];
  tell("turns");
  return () => {
    talk.turns = gone;
    tell("turns");
  };
}

function ask(turn, how, before = null, edit = null) {
  turn.system = how.system;
  turn.sampling = how.sampling;
  const history = talk.turns;
  talk.turns = [...history, turn].slice(-LONGEST);
  const busy = (talk.busy = {
    turn,
    before,
    edit,
    control: new AbortController(),
    seen: Date.now(),
  });
  markSent();
  tell("turns");
  receive(busy, history);
  watch();
}

// Streams the sides that have no reply yet. When one breaks off, so does the other.
async function receive(busy, turns) {
  const { turn, control } = busy;
  const sides = ["steered", "default"].filter((side) => turn[side] && !turn[side].done);
  const how = { signal: control.signal, onChange: () => redrawReply(busy) };
  try {
    const about = { model: await model(), turn, turns, user: me() };
    await Promise.all(sides.map((side) => streamReply(chatRequest(side, about), turn[side], how)));
    if (talk.busy === busy) ended();
  } catch (error) {
    if (talk.busy === busy) failed(error.lost ? CONNECTION_LOST : error.message);
  }
}

// Pieces that come close together are drawn together.
function redrawReply(busy) {
  busy.seen = Date.now();
  talk.waiting = "";
  busy.redraw ??= setTimeout(() => {
    busy.redraw = null;
    if (talk.busy === busy) tell("reply");
  }, REDRAW_MS);
}

function ended() {
  const { turn } = talk.busy;
  for (const side of [turn.default, turn.steered]) if (side) side.done = true;
  talk.busy = null;
  talk.waiting = "";
  tell("turns");
}

// A refusal before the first word gives the text back; what came before a break is kept, and each side that is not complete says so.
function failed(problem) {
  const { turn, before, edit, control } = talk.busy;
  const sides = [turn.default, turn.steered].filter(Boolean);
  const begun = sides.some((side) => side.text);
  control.abort();
  if (begun)
    for (const side of sides) {
      if (!side.done && !side.ended) side.problem = `The reply broke off here: ${problem}`;
    }
  else {
    talk.turns = [...talk.turns.filter((t) => t !== turn), ...(before ? [before] : [])];
    if ((!before || edit) && !talk.draft) {
      talk.draft = turn.question;
      talk.edit = edit;
    }
  }
  talk.problem = begun ? "" : problem;
  ended();
  tell("form");
  talk.problem = "";
}

// Closing the stream ends the reply on the server.
export function stop() {
  if (!talk.busy) return;
  const { turn, control } = talk.busy;
  control.abort();
  for (const side of [turn.default, turn.steered])
    if (side && !side.done && !side.ended) side.stopped = true;
  ended();
}

// Silence may be a queue, or a connection that broke: the server's health tells which.
async function watch() {
  const mine = talk.busy;
  while (talk.busy === mine) {
    await new Promise((done) => setTimeout(done, 1500));
    if (talk.busy !== mine || Date.now() - mine.seen < 1400) continue;
    try {
      const { requests } = await api("limits");
      const waiting = requests?.waiting || 0;
      talk.waiting = waiting
        ? `the model is busy: ${waiting} ${waiting === 1 ? "request waits" : "requests wait"}`
        : "thinking…";
      tell("reply");
    } catch (error) {
      if (error.lost && talk.busy === mine) failed(CONNECTION_LOST);
    }
  }
}

// The sliders, system prompt and sampling that a reply was made with.
export async function restore(turn) {
  const missing = await take(turn.asked || { features: [], unit: "dose" }, { preset: turn.preset });
  if (!missing) return null;
  Object.assign(talk, { system: turn.system, sampling: { ...turn.sampling }, seed: turn.seed });
  tell("form");
  return missing;
}

export async function thumb(turn, up) {
  await api("feedback", "POST", { user: me(), kind: "thumb", up, steering: turn.asked });
  turn.thumb = up;
  tell("turns");
}
