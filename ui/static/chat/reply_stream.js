// Reply stream: reads one reply from the API, with its tokens and its place in the queue.
import { api, events } from "../lib/api.js";
import { randomId } from "../lib/random.js";

const QUEUE_POLL_MS = 1000;
const ENDED_EARLY = "the server ended the stream before the reply was complete";

// Fills `reply` and calls `onChange` after each change. Aborting `signal` ends the generation on
// the server.
export async function streamReply(request, reply, { signal, onChange }) {
  const requestId = `page-${randomId()}`;
  const tokens = [];
  const polling = new AbortController();
  followQueue(requestId, reply, { signal: polling.signal, onChange });
  try {
    const options = { signal, headers: { "X-Request-Id": requestId } };
    for await (const { data } of events("chat/completions", request, options)) {
      addChunk(reply, tokens, data);
      onChange();
    }
    if (!reply.ended) throw new Error(ENDED_EARLY);
  } finally {
    polling.abort();
    if (!signal.aborted) reply.tokens = tokensWithText(tokens);
  }
}

function addChunk(reply, tokens, { error, choices = [], steering }) {
  if (error) throw Object.assign(new Error(error.message), { code: error.code });
  if (steering) reply.steering = { ...reply.steering, ...steering };
  for (const { delta, finish_reason, logprobs } of choices) {
    reply.text += delta.content || "";
    reply.ended ||= Boolean(finish_reason);
    tokens.push(...(logprobs?.content ?? []));
  }
}

// Polls the place in the queue until the reply begins; `reply.before` is null if it is unknown.
async function followQueue(requestId, reply, { signal, onChange }) {
  reply.before = null;
  for (;;) {
    await new Promise((done) => setTimeout(done, QUEUE_POLL_MS));
    if (signal.aborted || reply.text) return;
    const before = await queuePosition(requestId, signal);
    if (signal.aborted || before === reply.before) continue;
    reply.before = before;
    onChange();
    if (before === null) return;
  }
}

// A reply that has begun, or that waits at another replica, has no place here.
const queuePosition = (requestId, signal) =>
  api(`queue/${requestId}`, "GET", undefined, { signal }).then(
    ({ before }) => before,
    () => null,
  );

// Tokens with their probabilities, joining to the reply's text: where several tokens make one
// character, the last of them has it.
export function tokensWithText(tokens) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return tokens.map(({ token, logprob, bytes, top_logprobs = [] }, i) => ({
    token: bytes
      ? decoder.decode(Uint8Array.from(bytes), { stream: i < tokens.length - 1 })
      : token,
    logprob: rounded(logprob),
    top: top_logprobs.map((other) => [other.token, rounded(other.logprob)]),
  }));
}

const rounded = (logprob) => Math.round(logprob * 1000) / 1000;
