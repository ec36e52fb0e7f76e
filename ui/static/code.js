// The sliders as code to paste: the same steering object that the page sends.
async function model() {
  return (await api("models")).data[0].id;
}

function shellWord(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function curlCode(request) {
  return `curl ${BASE}/chat/completions \\\n  -H 'Content-Type: application/json' \\\n  -d ${shellWord(JSON.stringify(request, null, 2))}`;
}

// The request holds texts and finite numbers only, whose JSON is Python, too.
function pythonCode({ model, messages, steering, ...sampling }) {
  const given = Object.entries(sampling).map(([k, v]) => `    ${k}=${JSON.stringify(v)},\n`).join("");
  const extra = steering ? `    extra_body={"steering": ${JSON.stringify(steering)}},\n` : "";
  return `from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(BASE)}, api_key="none")\nreply = client.chat.completions.create(\n`
    + `    model=${JSON.stringify(model)},\n    messages=${JSON.stringify(messages)},\n${given}${extra})\nprint(reply.choices[0].message.content)\n`;
}

async function request() {
  const { message, system, ...sampling } = await fields();
  const messages = [{ role: "user", content: (message || "").trim() || "What should I do this weekend?" }];
  if ((system || "").trim()) messages.unshift({ role: "system", content: system });
  const given = Object.fromEntries(Object.entries(sampling).filter(([, v]) => v != null));
  return { model: await model(), messages, ...given, ...(state.rows.length && !state.bypass ? { steering: steering() } : {}) };
}

async function showCode() {
  try {
    const wanted = await request();
    const dialog = root.querySelector("dialog.code");
    dialog.replaceChildren(
      el("div", { class: "bar" }, el("h2", {}, "The same from code"), el("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => dialog.close() }, "✕")),
      el("p", { class: "hint" }, "This server needs no key."), codeBlock("curl", curlCode(wanted)), codeBlock("Python, with the openai package", pythonCode(wanted)));
    dialog.showModal();
  } catch (error) { notice(error.message, true); }
}

function codeBlock(title, text) {
  const copy = el("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { getSelection().selectAllChildren(block); copy.textContent = "Press Ctrl+C"; }
  });
  const block = el("pre", { tabindex: 0, "aria-label": title }, text);
  return el("div", { class: "block" }, el("div", { class: "bar" }, el("h3", {}, title), copy), block);
}
