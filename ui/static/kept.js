// What outlives a reload: of this tab in its session, of this browser in its storage. Nothing of it is sent anywhere.
const VERSION = 1;

function read(storage, name, fallback) {
  try {
    const { v, value } = JSON.parse(storage.getItem(`tiller.${name}`)) || {};
    return v === VERSION ? value : fallback;
  } catch { return fallback; }
}

function write(storage, name, value) {
  try { storage.setItem(`tiller.${name}`, JSON.stringify({ v: VERSION, value })); } catch { /* full or forbidden: then only this page has it */ }
}

export const ofTab = (name, fallback) => read(sessionStorage, name, fallback);
export const keepInTab = (name, value) => write(sessionStorage, name, value);
export const ofBrowser = (name, fallback) => read(localStorage, name, fallback);
export const keepInBrowser = (name, value) => write(localStorage, name, value);

// Who this browser is to the server: a random name under which it keeps what its user says of replies.
export function me() {
  let name = ofBrowser("me", null);
  if (!name) keepInBrowser("me", (name = `page-${crypto.randomUUID?.() ?? Math.random().toString(36).slice(2)}`));
  return name;
}
