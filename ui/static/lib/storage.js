// What outlives a reload: of this tab in its session, of this browser in its storage, each person's for themselves. Nothing of it is
// sent anywhere. Knows who one is here, and no element.
import { HERE } from "./api.js";
import { randomId } from "./random.js";
import { whoAmI } from "./roles.js";

const VERSION = 1,
  ALL = "tiller.";
const BOTH = [sessionStorage, localStorage];
const others = new BroadcastChannel("tiller");
let forgotten = false;

// Under what a person's things lie; null where nobody knows who it is: then nothing is read, and only this page has what is new.
const ask = () =>
  whoAmI().then(
    ({ tenant, owner }) => (owner == null ? ALL : `${ALL}${JSON.stringify([tenant, owner])}.`),
    () => null,
  );
let mine = await ask();

function read(storage, name, fallback) {
  try {
    const { v, value } = (mine && JSON.parse(storage.getItem(mine + name))) || {};
    return v === VERSION ? value : fallback;
  } catch {
    return fallback;
  }
}

function write(storage, name, value) {
  if (forgotten || !mine) return;
  try {
    storage.setItem(mine + name, JSON.stringify({ v: VERSION, value }));
  } catch {
    /* full or forbidden: then only this page has it */
  }
}

export const ofTab = (name, fallback) => read(sessionStorage, name, fallback);
export const keepInTab = (name, value) => write(sessionStorage, name, value);
export const ofBrowser = (name, fallback) => read(localStorage, name, fallback);
export const keepInBrowser = (name, value) => write(localStorage, name, value);

// Whoever had no name and has one now takes along what they had.
export async function named() {
  const before = mine,
    now = await ask();
  if (!before || !now || now === before) return;
  for (const storage of BOTH)
    for (const key of keysOf(storage)) {
      if (!/^[a-z]+$/.test(key.slice(before.length))) continue;
      storage.setItem(now + key.slice(before.length), storage.getItem(key));
      storage.removeItem(key);
    }
  mine = now;
}

const keysOf = (storage) => Object.keys(storage).filter((key) => key.startsWith(ALL));

// Nothing is left of anybody, and this page keeps nothing more; it is to be left now.
export function forget() {
  forgotten = true;
  for (const storage of BOTH) for (const key of keysOf(storage)) storage.removeItem(key);
}

// Who signs out does so in all tabs.
export function leave() {
  forget();
  others.postMessage("left");
}
others.addEventListener("message", () => {
  forget();
  location.assign(`${HERE}sign-in`);
});
// A page that the browser held ready for going back has the conversation still.
addEventListener("pageshow", (event) => event.persisted && forgotten && location.reload());

// Who this browser is to the server: a random name under which it keeps what its user says of replies.
let name = ofBrowser("me", null);
export function me() {
  if (!name) keepInBrowser("me", (name = `page-${randomId()}`));
  return name;
}
