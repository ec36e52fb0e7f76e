// Code export: the current request as curl, Python and JSON.
import { samplingFields } from "../chat/chat_request.js";
import { conversation } from "../chat/conversation.js";
import { api, API_URL, modelId } from "../lib/api.js";
import { copyButton, el, openDialog } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { activeSteering } from "./slider_state.js";

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

// The key comes from the environment; a server without keys accepts any value.
export function curlCode(request) {
  return (
    `curl ${API_URL}/chat/completions \\\n  -H 'Content-Type: application/json' \\\n  -H ` +
    `"Authorization: Bearer \${API_KEY:-none}" \\\n  -d ` +
    shellQuote(JSON.stringify(request, null, 2))
  );
}

// A value of JSON as Python writes it.
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${python(v)}`);
  return `{${entries.join(", ")}}`;
}

export function openaiCode({ model, messages, steering, ...sampling }) {
  const { repetition_penalty, ...openaiSampling } = sampling;
  const samplingLines = Object.entries(openaiSampling)
    .map(([k, v]) => `    ${k}=${python(v)},\n`)
    .join("");
  const more = {
    ...(repetition_penalty == null ? {} : { repetition_penalty }),
    ...(steering ? { steering } : {}),
  };
  const extra = Object.keys(more).length ? `    extra_body=${python(more)},\n` : "";
  return (
    "import os\n\nfrom openai import OpenAI\n\nclient = " +
    `OpenAI(base_url=${JSON.stringify(API_URL)}, api_key=os.environ.get("API_KEY", ` +
    `"none"))\nreply = client.chat.completions.create(\n` +
    `    model=${JSON.stringify(model)},\n    messages=${python(messages)},\n` +
    `${samplingLines}${extra})\nprint(reply.choices[0].message.content)\n`
  );
}

export function clientCode(request) {
  return (
    "import json\nimport os\n\nfrom tiller import Tiller\n\nwith " +
    `Tiller(${JSON.stringify(API_URL)}, key=os.environ.get("API_KEY", "none")) as tiller:\n  ` +
    `  reply = tiller.chat(**json.loads(${JSON.stringify(JSON.stringify(request))}))\n    ` +
    "print(reply.text)\n"
  );
}

export async function chatRequestNow() {
  const messages = [
    {
      role: "user",
      content:
        (conversation.draft || conversation.turns.at(-1)?.question || "").trim() ||
        "What should I do this weekend?",
    },
  ];
  if (conversation.system.trim())
    messages.unshift({ role: "system", content: conversation.system });
  const steering = activeSteering();
  return {
    model: await modelId(),
    messages,
    ...samplingFields(conversation.sampling, conversation.seed),
    ...(steering ? { steering } : {}),
  };
}

export async function snippets() {
  const request = await chatRequestNow();
  return [
    ["curl", curlCode(request)],
    ["Python, with the openai package", openaiCode(request)],
    ["Python, with Tiller's own client", clientCode(request)],
    ["JSON, the request itself", JSON.stringify(request, null, 2)],
  ];
}

export async function showCode() {
  try {
    const blocks = (await snippets()).map(([title, text]) => codeBlock(title, text));
    const { keys } = await api("limits").catch(() => ({}));
    openDialog(
      "Use it from code",
      el(
        "p",
        { class: "hint" },
        keys ? "Set the environment variable API_KEY to your key." : "This server needs no key.",
      ),
      ...blocks,
    ).classList.add("code");
  } catch (error) {
    notice(error.message, true);
  }
}

export const codeBlock = (title, text) =>
  el(
    "div",
    { class: "block" },
    el("div", { class: "bar" }, el("h3", {}, title), copyButton(text)),
    el("pre", { tabindex: 0, "aria-label": title }, text),
  );
