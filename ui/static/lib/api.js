// API client: JSON requests, server-sent events, and errors as sentences.
export const PAGE_URL = new URL(".", location.origin + location.pathname).href;
export const API_URL = PAGE_URL + "v1";
const UNREACHABLE = "The server cannot be reached; is it still running?";

export async function api(path, method = "GET", content, options) {
  const response = await request(path, method, content, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw apiError(response.status, body);
  return body;
}

function request(path, method, content, { signal, headers = {} } = {}) {
  const type = content ? { "Content-Type": "application/json" } : {};
  const body = content && JSON.stringify(content);
  return fetch(`${API_URL}/${path}`, {
    method,
    signal,
    headers: { ...type, ...headers },
    body,
  }).catch(connectionLost);
}

// Redirects to the sign-in page on a 401; drafts stay in this browser. `holdSignInRedirect`
// prevents it while a new key, which is shown once, is on the screen.
let redirectHolds = 0;
const goToSignIn = () => redirectHolds || location.assign(`${PAGE_URL}sign-in`);

export async function holdSignInRedirect(act) {
  redirectHolds += 1;
  try {
    return await act();
  } finally {
    redirectHolds -= 1;
  }
}

// Throws; the header listens to `offline` and checks the server's health at once.
function connectionLost(error) {
  if (error.name === "AbortError") throw error;
  dispatchEvent(new Event("offline"));
  throw Object.assign(new Error(UNREACHABLE), { lost: true });
}

function apiError(status, { error = {} }) {
  if (status === 401) goToSignIn();
  const message = error.message || "The server gave no reason.";
  return Object.assign(new Error(message), { status, code: error.code, param: error.param });
}

// The events of a stream, until `[DONE]`; a connection that breaks off is an error.
export async function* events(path, content, options) {
  const response = await request(path, content ? "POST" : "GET", content, options);
  if (!response.ok) throw apiError(response.status, await response.json().catch(() => ({})));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(connectionLost);
      if (done) return;
      const blocks = (buffer + value).split("\n\n");
      buffer = blocks.pop();
      for (const event of blocks.map(parseEvent)) {
        if (event.data === "[DONE]") return;
        if (event.data) yield { ...event, data: JSON.parse(event.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // the server ends a reply that nobody reads
  }
}

// One event's fields; a line that begins with a colon only keeps the connection open.
function parseEvent(block) {
  const lines = block.split("\n").filter((line) => line && !line.startsWith(":"));
  return Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
    }),
  );
}

let cachedModel;
// The base model's card.
export const baseModel = () =>
  (cachedModel ??= api("models")
    .then((m) => m.data[0])
    .catch((error) => {
      cachedModel = null;
      throw error;
    }));
export const modelId = async () => (await baseModel()).id;

// Retries every second while the server answers 503, as it does while the model loads.
export async function retryWhileLoading(ask, tries = 180) {
  try {
    return await ask();
  } catch (error) {
    if (error.status !== 503 || !tries) throw error;
    await new Promise((done) => setTimeout(done, 1000));
    return retryWhileLoading(ask, tries - 1);
  }
}

export const featurePath = (id) => `features/${id.split("/").map(encodeURIComponent).join("/")}`;
