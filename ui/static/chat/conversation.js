// The conversation: its turns, how replies are drawn, and what is sent. Knows no elements; the page's Python asks the API.
import { api } from "../lib/api.js";
import { keepInTab, me, ofTab } from "../lib/storage.js";
import { asked, asMade, markSent, settled, state, take } from "../panel/slider_state.js";

export const DRAWN = { temperature: 0.5, top_p: 1, repetition_penalty: 1, max_tokens: 160 };
export const talk = { turns: [], draft: "", system: "", sampling: { ...DRAWN }, seed: 7, keepSeed: true, compare: true, edit: null, ...ofTab("talk", {}), busy: null, waiting: "" };
const LONGEST = 200;
const followers = [];
let submit = () => {}, cancel = () => {};

export const onTalk = (act) => followers.push(act);
export function tell(what = "turns") {
  if (what !== "reply") keep();
  for (const act of followers) act(what);
}

function keep() {
  const { busy, waiting, problem, ...kept } = talk;
  keepInTab("talk", kept);
}
addEventListener("pagehide", keep);

// What was cut off by a reload says so, and can be asked again.
for (const turn of talk.turns) for (const side of [turn.default, turn.steered]) if (side && !side.done) Object.assign(side, { done: true, problem: side.problem || "The page was reloaded while this was said." });

// A persona brings its first question, system prompt and sampling; what was typed since `draft` stays.
export function begin(preset, draft = talk.draft) {
  if (talk.draft === draft) talk.draft = preset?.starter_prompts[0] || draft;
  talk.system = preset?.system_prompt || "";
  for (const [name, usual] of Object.entries(DRAWN)) talk.sampling[name] = preset?.sampling?.[name] ?? usual;
  tell("form");
}

export function connect(how) {
  [submit, cancel] = [how.submit, how.cancel];
}

const fresh = () => ({ text: "", done: false });

// Asks both sides. Nothing is sent without a word to say, or while a reply is on its way.
export async function send(words = talk.draft) {
  const question = words.trim();
  if (!question || !(await free())) return;
  if (!talk.keepSeed) talk.seed = Math.floor(Math.random() * 1e6);
  const steering = asked();
  const turn = { id: crypto.randomUUID?.() ?? String(Math.random()), question, asked: steering, preset: state.preset, persona: asMade(), seed: talk.seed, default: talk.compare ? fresh() : null, steered: fresh() };
  const edit = words === talk.draft && editing() ? talk.edit : null, before = edit ? talk.turns.pop() : null;
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
  const turn = { ...last, asked: asked(), preset: state.preset, persona: asMade(), seed: talk.keepSeed ? talk.seed : Math.floor(Math.random() * 1e6), default: talk.compare ? fresh() : last.default, steered: fresh() };
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
  return () => { talk.turns = gone; tell("turns"); };
}

function ask(turn, how, before = null, edit = null) {
  turn.system = how.system;
  turn.sampling = how.sampling;
  const history = talk.turns.map(({ question, default: left, steered }) => ({ question, default: left?.text || null, steered: steered.text }));
  talk.turns = [...talk.turns, turn].slice(-LONGEST);
  talk.busy = { turn, before, edit, at: Date.now(), seen: Date.now() };
  markSent();
  tell("turns");
  const again = turn.default && !turn.default.text;
  submit({ id: turn.id, message: turn.question, history, steering: turn.asked, system: how.system, sampling: { ...how.sampling, seed: turn.seed }, compare: Boolean(again), user: me() });
  watch();
}

// What the page's Python tells of the turn that is on its way.
export function news(told) {
  const busy = talk.busy;
  if (!busy || told?.id !== busy.turn.id) return;
  busy.seen = Date.now();
  talk.waiting = "";
  for (const name of ["default", "steered"]) if (told[name] && busy.turn[name]) Object.assign(busy.turn[name], told[name]);
  if (told.problem) return failed(told.problem);
  if (told.done) return ended();
  tell("reply");
}

function ended() {
  const { turn } = talk.busy;
  for (const side of [turn.default, turn.steered]) if (side) side.done = true;
  talk.busy = null;
  talk.waiting = "";
  tell("turns");
}

// A refusal before the first word gives the text back; what was said until a break is kept, and says so on either side that was not whole.
function failed(problem) {
  const { turn, before, edit } = talk.busy;
  const said = turn.steered.text || turn.default?.text;
  talk.waiting = "";
  if (said) for (const side of [turn.default, turn.steered]) { if (side && !side.done && !side.ended) side.problem = `The reply broke off here: ${problem}`; }
  else {
    talk.turns = [...talk.turns.filter((t) => t !== turn), ...(before ? [before] : [])];
    if ((!before || edit) && !talk.draft) {
      talk.draft = turn.question;
      talk.edit = edit;
    }
  }
  talk.problem = said ? "" : problem;
  ended();
  tell("form");
  talk.problem = "";
}

export function stop() {
  if (!talk.busy) return;
  cancel();
  const { turn } = talk.busy;
  for (const side of [turn.default, turn.steered]) if (side && !side.done && !side.ended) side.stopped = true;
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
      talk.waiting = waiting ? `the model is busy: ${waiting} ${waiting === 1 ? "request waits" : "requests wait"}` : "thinking…";
      tell("reply");
    } catch (error) {
      if (error.lost && talk.busy === mine) failed("the connection to the server was lost. What was said is kept; ask again when it is back.");
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
