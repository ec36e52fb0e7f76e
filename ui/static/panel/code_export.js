// The sliders as code to paste: the same steering object that the page sends.
import { api, BASE, model } from "../lib/api.js";
import { copyButton, el, openDialog } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { asked } from "./slider_state.js";
import { samplingFields } from "../chat/chat_request.js";
import { talk } from "../chat/conversation.js";

const shellWord = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

// The key is named, not shown: where the server asks for none, any will do.
export function curlCode(request) {
  return `curl ${BASE}/chat/completions \\\n  -H 'Content-Type: application/json' \\\n  -H "Authorization: Bearer \${API_KEY:-none}" \\\n  -d ${shellWord(JSON.stringify(request, null, 2))}`;
}

// A request holds texts, finite numbers, lists and objects, whose JSON is Python, too.
export function openaiCode({ model, messages, steering, ...sampling }) {
  const { repetition_penalty, ...known } = sampling;
  const given = Object.entries(known)
    .map(([k, v]) => `    ${k}=${JSON.stringify(v)},\n`)
    .join("");
  const more = {
    ...(repetition_penalty == null ? {} : { repetition_penalty }),
    ...(steering ? { steering } : {}),
  };
  const extra = Object.keys(more).length ? `    extra_body=${JSON.stringify(more)},\n` : "";
  return (
    `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(BASE)}, api_key=os.environ.get("API_KEY", "none"))\nreply = client.chat.completions.create(\n` +
    `    model=${JSON.stringify(model)},\n    messages=${JSON.stringify(messages)},\n${given}${extra})\nprint(reply.choices[0].message.content)\n`
  );
}

export function clientCode(request) {
  return `import json\nimport os\n\nfrom tiller import Tiller\n\nwith Tiller(${JSON.stringify(BASE)}, key=os.environ.get("API_KEY", "none")) as tiller:\n    reply = tiller.chat(**json.loads(${JSON.stringify(JSON.stringify(request))}))\n    print(reply.text)\n`;
}

export async function request() {
  const messages = [
    {
      role: "user",
      content:
        (talk.draft || talk.turns.at(-1)?.question || "").trim() ||
        "What should I do this weekend?",
    },
  ];
  if (talk.system.trim()) messages.unshift({ role: "system", content: talk.system });
  const steering = asked();
  return {
    model: await model(),
    messages,
    ...samplingFields(talk.sampling, talk.seed),
    ...(steering ? { steering } : {}),
  };
}

export async function snippets() {
  const wanted = await request();
  return [
    ["curl", curlCode(wanted)],
    ["Python, with the openai package", openaiCode(wanted)],
    ["Python, with Tiller's own client", clientCode(wanted)],
    ["JSON, the request itself", JSON.stringify(wanted, null, 2)],
  ];
}

export async function showCode() {
  try {
    const blocks = (await snippets()).map(([title, text]) => codeBlock(title, text));
    const { keys } = await api("limits").catch(() => ({}));
    openDialog(
      "The same from code",
      el(
        "p",
        { class: "hint" },
        keys ? "Put your key into the environment as API_KEY." : "This server needs no key.",
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
