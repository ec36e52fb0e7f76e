// Settings & API: where the API is, code for the sliders as they are, what the server allows, what it keeps of you, and all of it in and out.
import { api, BASE, HERE } from "../lib/api.js";
import { codeBlock, snippets } from "../panel/code_export.js";
import { button, confirmed, copyButton, download, el, keepFocus, toast } from "../lib/dom.js";
import { theme } from "../shell/header.js";
import { keysCard } from "./api_keys.js";
import { forget as forgetHere, keepInBrowser, me, ofBrowser } from "../lib/storage.js";
import { loadPersonas } from "../panel/personas.js";
import { beyond } from "../lib/roles.js";
import { onChange, redraw } from "../panel/slider_state.js";

let root,
  who = null,
  keys = null,
  limits = null,
  consent = null,
  defaults = null,
  code = [],
  failed = "";

export function mount(section) {
  root = section;
  root.replaceChildren(
    el("h2", {}, "Settings & API"),
    el("p", { class: "empty" }, "Asking the server…"),
  );
  let timer;
  onChange(() => {
    clearTimeout(timer);
    timer = setTimeout(() => code.length && fill(), 300);
  });
}

// What was asked last counts: an answer from before somebody changed something would take it back here.
let asked = 0;
export async function opened() {
  const mine = ++asked;
  try {
    const told = await look();
    if (mine !== asked) return;
    [limits, consent, defaults, who, keys, code] = told;
    failed = "";
  } catch (error) {
    if (mine !== asked) return;
    failed = error.message;
  }
  draw();
}

async function look() {
  const user = encodeURIComponent(me());
  const told = await Promise.all([
      api("limits"),
      api(`training/consent?user=${user}`),
      api(`feedback?user=${user}`),
    ]),
    is = await api("me");
  return [...told, is, is.role === "admin" ? (await api("keys")).data : null, await snippets()];
}

async function fill() {
  code = await snippets().catch(() => code);
  root.querySelector("#code-blocks")?.replaceChildren(...blocks());
}
const blocks = () => code.map(([title, text]) => codeBlock(title, text));

function draw() {
  keepFocus(root, () =>
    root.replaceChildren(
      ...[
        el("h2", {}, "Settings & API"),
        failed
          ? el("div", { class: "problem", role: "alert" }, failed, " ", button("Try again", opened))
          : null,
        limits
          ? el(
              "div",
              { class: "two" },
              el(
                "div",
                { class: "stack" },
                address(),
                keysCard({ who, keys, on: limits.keys.on, again: opened }),
                privacy(),
                everything(),
                looks(),
              ),
              el("div", { class: "stack" }, server(), codeCard()),
            )
          : null,
      ].filter(Boolean),
    ),
  );
}

const card = (title, ...content) =>
  el("section", { class: "card stack", "aria-label": title }, el("h3", {}, title), ...content);

const address = () =>
  card(
    "Address",
    el(
      "div",
      { class: "bar" },
      el("code", { class: "grow", id: "api-base" }, BASE),
      copyButton(BASE),
    ),
    el(
      "p",
      { class: "muted" },
      "Any OpenAI client works with this base URL; `steering` goes into the request's extra body. The reference is at ",
      el("a", { href: `${HERE}docs`, target: "_blank", rel: "noopener" }, "/docs"),
      ".",
    ),
    el(
      "p",
      { class: "muted" },
      limits.keys.on
        ? "This server asks for a key."
        : "This server asks for no key, for it answers on this machine only.",
    ),
  );

function codeCard() {
  return card("The sliders as they are, as code", el("div", { id: "code-blocks" }, blocks()));
}

function server() {
  const { server: s, model, sae, steering, requests, training } = limits,
    hours = training.update_hours;
  const rows = [
    ["Model", `${model.id}, context ${model.context} tokens`],
    ["SAE", `${sae.revision} at ${sae.hook}, ${sae.features} features`],
    ["Engine", `${s.engine} on ${s.device}`],
    ["Store", s.store],
    ["Version", s.version],
    [
      "Now",
      `${requests.running} running, ${requests.waiting} waiting; room for ${requests.live} at once and ${requests.queue} in the queue`,
    ],
    [
      "A request may",
      `steer ${steering.max_features} features, push ${steering.max_push} of the stream's length, and send ${Math.round(requests.max_body / 1024)} KiB`,
    ],
    ["Modes", steering.modes.join(", ")],
    [
      "Trainer",
      training.on
        ? `on${hours ? `, updates every ${hours} h` : ", updates when the text drifts"}`
        : "off",
    ],
    ...(who.default_preset ? [["Default persona", who.default_preset]] : []),
    [
      "Shared links on the server",
      limits.shares?.on ? `on, kept ${limits.shares.days} days` : "off",
    ],
  ];
  return card(
    "This server",
    el(
      "dl",
      { class: "figures" },
      rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    sae.swap_error ? el("p", { class: "problem" }, sae.swap_error) : null,
  );
}

function privacy() {
  const agreed = el("input", {
    type: "checkbox",
    id: "consent",
    checked: consent.consent,
    "data-key": "consent",
    onchange: (e) => agree(e.target.checked),
  });
  const kept = consent.texts ?? consent.kept ?? 0;
  return card(
    "What is kept of you",
    el(
      "p",
      { class: "muted" },
      "The conversation, the sliders and your votes lie in this browser. The server stores nothing that you type, unless you agree to this:",
    ),
    el("label", {}, agreed, "Let the SAE learn from my chats"),
    el(
      "p",
      { class: "muted" },
      `Then up to ${limits.training.live_texts} of your conversations are kept for ${limits.training.live_days} days, and the SAE (not the model) learns from them. Take it back, and all of them are deleted at once. Kept now: ${kept}.`,
    ),
    el(
      "div",
      { class: "bar" },
      button("Delete my conversations", () => erase("texts"), {
        id: "erase-texts",
        disabled: !kept,
      }),
      button("Forget what I liked", () => erase("votes"), {
        id: "erase-votes",
        disabled: !defaults.votes.length,
      }),
      button("Forget me on the server", forget, { id: "erase-me" }),
      button("Delete everything in this browser", wipe, { id: "erase-browser" }),
    ),
    el(
      "p",
      { class: "muted" },
      "You are known to the server as ",
      el("code", { id: "me" }, who.owner ?? me()),
      who.owner ? ", as your key says." : ", a random name of this browser.",
    ),
  );
}

async function agree(is) {
  asked += 1; // what is on its way says what was so before
  try {
    await api("training/consent", "PUT", { user: me(), consent: is });
    toast(
      is
        ? "Thank you. You can take it back here at any time."
        : "Taken back; what was kept is deleted.",
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await opened();
}

async function erase(what) {
  const [question, path, words] = {
    texts: [
      "Delete the conversations that the server keeps of you?",
      "training/texts",
      "They are deleted.",
    ],
    votes: ["Forget all votes and thumbs?", "feedback", "Forgotten."],
  }[what];
  if (!(await confirmed(question, "Delete"))) return;
  try {
    await api(`${path}?user=${encodeURIComponent(me())}`, "DELETE");
    toast(words);
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await opened();
}

async function forget() {
  const more = who.owner
    ? ", and the personas, vectors, shared links and jobs of your key"
    : " and your vectors";
  if (
    !(await confirmed(
      `Delete your agreement, the conversations that were kept, what you liked${more} from the server? This cannot be undone.`,
      "Forget me",
    ))
  )
    return;
  try {
    const { deleted } = await api(`me?user=${encodeURIComponent(me())}`, "DELETE");
    toast(
      `Forgotten: ${
        Object.entries(deleted)
          .filter(([, n]) => n)
          .map(([kind, n]) => `${n} ${kind}`)
          .join(", ") || "nothing was kept"
      }.`,
    );
    await loadPersonas();
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await opened();
}

async function wipe() {
  if (
    !(await confirmed(
      "Delete the conversation, the sliders and your name from this browser? Saved personas stay on the server.",
      "Delete",
    ))
  )
    return;
  forgetHere();
  location.assign(location.pathname);
}

function everything() {
  const closed = beyond("POST /v1/import", "An import"),
    file = el("input", {
      type: "file",
      accept: ".json,application/json",
      id: "import-file",
      "aria-label": "A file to import",
    }),
    replace = el("input", { type: "checkbox", id: "import-replace" });
  file.addEventListener(
    "change",
    () => file.files[0] && bring(file.files[0], replace.checked, file),
  );
  return card(
    "Everything, out and in",
    el(
      "p",
      { class: "muted" },
      "Personas, labels, notes, stars, vectors and votes, as one JSON file.",
    ),
    el("div", { class: "bar" }, button("Export everything", take, { id: "export-all" })),
    ...(closed
      ? [el("p", { class: "muted" }, closed)]
      : [
          el("label", { class: "field" }, "Import a file", file),
          el("label", {}, replace, "Replace what is there under the same name"),
        ]),
  );
}

async function take() {
  try {
    download(
      "tiller-export.json",
      JSON.stringify(await api(`export?user=${encodeURIComponent(me())}`), null, 2),
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
}

async function bring(file, replace, field) {
  try {
    const told = JSON.parse(await file.text()),
      path =
        told.object === "preset.bundle"
          ? `presets/import?user=${encodeURIComponent(me())}`
          : "import";
    const done = await api(path, "POST", { ...told, ...(replace ? { replace: true } : {}) });
    await loadPersonas();
    redraw();
    toast(`Imported: ${summary(done)}.`);
  } catch (error) {
    toast(error instanceof SyntaxError ? "This file is no JSON." : error.message, {
      problem: true,
    });
  }
  field.value = "";
}

function summary({ counts, data }) {
  const found = counts
    ? Object.entries(counts).map(
        ([kind, c]) => `${Object.values(c).reduce((a, b) => a + b, 0)} ${kind}`,
      )
    : [`${data.length} presets`];
  return found.join(", ") || "nothing was in it";
}

function looks() {
  const choose = el(
    "select",
    {
      id: "theme",
      "aria-label": "Theme",
      "data-key": "theme",
      onchange: (e) => {
        keepInBrowser("theme", e.target.value);
        theme();
      },
    },
    [
      ["", "as the system"],
      ["light", "light"],
      ["dark", "dark"],
    ].map(([value, words]) =>
      el("option", { value, selected: value === ofBrowser("theme", "") }, words),
    ),
  );
  return card("Looks", el("label", {}, "Theme", choose));
}
