// The official JavaScript client: replies as JSON on standard output.
import OpenAI from "openai";

const [address, question, steering] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none" });
const asked = { messages: [{ role: "user", content: question }], temperature: 0, max_tokens: 12 };
const create = (more) => client.chat.completions.create({ model: "small", ...asked, ...more });
const text = (reply) => reply.choices[0].message.content;

let streamed = "";
for await (const chunk of await create({ stream: true })) streamed += chunk.choices[0]?.delta?.content ?? "";
const steered = await create({ steering: JSON.parse(steering) });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
let error = "";
try {
  await create({ steering: { preset: "nobody" } });
} catch (refused) {
  error = refused.message;
}
process.stdout.write(
  JSON.stringify({
    plain: text(await create()),
    streamed,
    steered: text(steered),
    persona: text(await create({ model: "small@bridge" })),
    applied: steered.steering.applied[0].id,
    models,
    error,
  }),
);
