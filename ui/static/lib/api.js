// The API, as any client sees it: JSON in and out, server-sent events, and its errors as sentences.
export const HERE = new URL(".", location.origin + location.pathname).href;
export const BASE = HERE + "v1";
const LOST = "The server cannot be reached; is it still running?";

export async function api(path, method = "GET", content, { signal } = {}) {
  const answer = await fetch(`${BASE}/${path}`, { method, signal, headers: content ? { "Content-Type": "application/json" } : {}, body: content && JSON.stringify(content) })
    .catch(lost);
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw problemOf(answer.status, told);
  return told;
}

// Who has to sign in is taken there; what was typed waits in this browser. While something is shown that is told only once, they stay.
let staying = 0;
const signIn = () => staying || location.assign(`${HERE}sign-in`);

export async function stayingHere(act) {
  staying += 1;
  try { return await act(); } finally { staying -= 1; }
}

// Whoever watches the connection hears of it.
function lost(error) {
  if (error.name === "AbortError") throw error;
  dispatchEvent(new Event("offline"));
  throw Object.assign(new Error(LOST), { lost: true });
}

function problemOf(status, told) {
  if (status === 401) signIn();
  return Object.assign(new Error(told.error?.message || "The server gave no reason."), { status, code: told.error?.code, param: told.error?.param });
}

// The events of a stream, one by one; a break of the connection is an error, too.
export async function* events(path, content, { signal, headers = {} } = {}) {
  const answer = await fetch(`${BASE}/${path}`, { method: content ? "POST" : "GET", signal, headers: { ...(content ? { "Content-Type": "application/json" } : {}), ...headers }, body: content && JSON.stringify(content) })
    .catch(lost);
  if (!answer.ok) throw problemOf(answer.status, await answer.json().catch(() => ({})));
  let rest = "";
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const event = Object.fromEntries(part.split("\n").filter((l) => l && !l.startsWith(":")).map((l) => [l.slice(0, l.indexOf(":")), l.slice(l.indexOf(":") + 1).trimStart()]));
      if (event.data === "[DONE]") return;
      if (event.data) yield { ...event, data: JSON.parse(event.data) };
    }
  }
}

let known;
export const model = () => (known ??= api("models").then((m) => m.data[0].id).catch((error) => { known = null; throw error; }));

// Asks again while the model is still being loaded.
export async function whenReady(ask, tries = 180) {
  try {
    return await ask();
  } catch (error) {
    if (error.status !== 503 || !tries) throw error;
    await new Promise((done) => setTimeout(done, 1000));
    return whenReady(ask, tries - 1);
  }
}

export const featurePath = (id) => `features/${id.split("/").map(encodeURIComponent).join("/")}`;
