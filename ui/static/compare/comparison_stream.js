// Comparison stream: reads `POST /v1/steering/compare`, one question answered by several steering
// settings.
import { events, modelId } from "../lib/api.js";

// `variants` are { name, steering }. Calls `show` with all results after each chunk; they are in
// the order of the variants.
export async function streamComparison({ messages, variants, sampling, signal }, show) {
  const results = variants.map(() => ({ text: "", done: false }));
  const requested = variants.map(({ name, steering }) => ({
    name,
    steering: { ...(steering || {}), return: ["applied", "coherence"] },
  }));
  for await (const { data } of events(
    "steering/compare",
    { model: await modelId(), messages, ...sampling, variants: requested, stream: true },
    { signal },
  )) {
    addChunk(results[data.index], data);
    show(results);
  }
  return results;
}

function addChunk(result, chunk) {
  if (chunk.error) return Object.assign(result, { problem: chunk.error.message, done: true });
  Object.assign(result, { steering: { ...result.steering, ...chunk.steering } });
  for (const { delta, finish_reason } of chunk.choices) {
    result.text += delta.content || "";
    if (finish_reason) Object.assign(result, { done: true, finish: finish_reason });
  }
}

export const countWords = (text) => (text.match(/\S+/g) || []).length;
