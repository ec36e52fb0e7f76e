// Chat request: the body of `POST /v1/chat/completions` for one side of a turn.
const TOP_LOGPROBS = 4;

// Each side continues its own conversation; turns that it did not answer are left out.
export function messagesFor(side, { turns, question, system }) {
  const answered = turns.filter((turn) => turn[side]?.text);
  const history = answered.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn[side].text },
  ]);
  const first = system.trim() ? [{ role: "system", content: system }] : [];
  return [...first, ...history, { role: "user", content: question }];
}

// Sampling fields that are set; the server chooses the rest.
export const samplingFields = (sampling, seed) =>
  Object.fromEntries(Object.entries({ ...sampling, seed }).filter(([, value]) => value != null));

// `turns` are those before this one.
export function chatRequest(side, { model, turn, turns, user }) {
  const { question, system, sampling, seed } = turn;
  const steering = { ...(turn.steering || {}), return: ["applied", "coherence"] };
  return {
    model,
    messages: messagesFor(side, { turns, question, system }),
    truncation: "auto",
    ...samplingFields(sampling, seed),
    ...(side === "steered" ? { steering } : {}),
    logprobs: true,
    top_logprobs: TOP_LOGPROBS,
    user,
    stream: true,
  };
}
