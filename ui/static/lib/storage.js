// Storage: sessionStorage for this tab and localStorage for this browser, separate for each
// signed-in user. Nothing here is sent to a server.
import { PAGE_URL } from "./api.js";
import { randomId } from "./random.js";
import { fetchMe } from "./roles.js";

const VERSION = 1,
  PREFIX = "tiller.";
const STORAGES = [sessionStorage, localStorage];
const otherTabs = new BroadcastChannel("tiller");
let cleared = false;

// The key prefix of the signed-in user; null if `/v1/me` failed, and then nothing is read or
// written.
const fetchUserPrefix = () =>
  fetchMe().then(
    ({ tenant, owner }) =>
      owner == null ? PREFIX : `${PREFIX}${JSON.stringify([tenant, owner])}.`,
    () => null,
  );
let userPrefix = await fetchUserPrefix();

function read(storage, name, fallback) {
  try {
    const { v, value } = (userPrefix && JSON.parse(storage.getItem(userPrefix + name))) || {};
    return v === VERSION ? value : fallback;
  } catch {
    return fallback;
  }
}

function write(storage, name, value) {
  if (cleared || !userPrefix) return;
  try {
    storage.setItem(userPrefix + name, JSON.stringify({ v: VERSION, value }));
  } catch {
    /* full or forbidden: then only this page has it */
  }
}

export const readFromTab = (name, fallback) => read(sessionStorage, name, fallback);
export const saveInTab = (name, value) => write(sessionStorage, name, value);
export const readFromBrowser = (name, fallback) => read(localStorage, name, fallback);
export const saveInBrowser = (name, value) => write(localStorage, name, value);

// Moves what an anonymous user stored to the user that they have signed in as.
export async function moveToSignedInUser() {
  const before = userPrefix,
    now = await fetchUserPrefix();
  if (!before || !now || now === before) return;
  for (const storage of STORAGES)
    for (const key of storedKeys(storage)) {
      if (!/^[a-z]+$/.test(key.slice(before.length))) continue;
      storage.setItem(now + key.slice(before.length), storage.getItem(key));
      storage.removeItem(key);
    }
  userPrefix = now;
}

const storedKeys = (storage) => Object.keys(storage).filter((key) => key.startsWith(PREFIX));

// Deletes everything of all users and stops writing; the caller leaves the page next.
export function clearStorage() {
  cleared = true;
  for (const storage of STORAGES) for (const key of storedKeys(storage)) storage.removeItem(key);
}

// Signing out clears all tabs of this browser.
export function clearAllTabs() {
  clearStorage();
  otherTabs.postMessage("left");
}
otherTabs.addEventListener("message", () => {
  clearStorage();
  location.assign(`${PAGE_URL}sign-in`);
});
// A page from the back/forward cache would still show the conversation.
addEventListener("pageshow", (event) => event.persisted && cleared && location.reload());

// Anonymous user id: a random name under which the server stores feedback.
let storedUserId = readFromBrowser("me", null);
export function userId() {
  if (!storedUserId) saveInBrowser("me", (storedUserId = `page-${randomId()}`));
  return storedUserId;
}
