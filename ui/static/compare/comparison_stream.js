// The same question to several specs at once: what each replies, as it grows. Knows the API's comparison and no elements.
import { events, model } from "../lib/api.js";

// `variants` are { name, steering }; `show` is called whenever a result has grown. Results are in the variants' order.
export async function compared({ messages, variants, sampling, signal }, show) {
  const results = variants.map(() => ({ text: "", done: false }));
  const wanted = variants.map(({ name, steering }) => ({
    name,
    steering: { ...(steering || {}), return: ["applied", "coherence"] },
  }));
  for await (const { data } of events(
    "steering/compare",
    { model: await model(), messages, ...sampling, variants: wanted, stream: true },
    { signal },
  )) {
    take(results[data.index], data);
    show(results);
  }
  return results;
}

function take(result, chunk) {
  if (chunk.error) return Object.assign(result, { problem: chunk.error.message, done: true });
  Object.assign(result, { steering: { ...result.steering, ...chunk.steering } });
  for (const { delta, finish_reason } of chunk.choices) {
    result.text += delta.content || "";
    if (finish_reason) Object.assign(result, { done: true, finish: finish_reason });
  }
}

export const wordsOf = (text) => (text.match(/\S+/g) || []).length;
