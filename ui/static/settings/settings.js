// Settings & API tab: address, keys, privacy, export and import, theme, server limits, and code
// for the current sliders.
import { api, API_URL, PAGE_URL } from "../lib/api.js";
import { button, confirmDialog, copyButton, download, el, keepFocus, toast } from "../lib/dom.js";
import { missingRoleText } from "../lib/roles.js";
import {
  clearStorage as forgetHere,
  readFromBrowser,
  saveInBrowser,
  userId,
} from "../lib/storage.js";
import { codeBlock, snippets } from "../panel/code_export.js";
import { loadPersonas } from "../panel/personas.js";
import { onChange, redraw } from "../panel/slider_state.js";
import { applyTheme } from "../shell/header.js";
import { keysCard } from "./api_keys.js";

let root,
  me = null,
  keys = null,
  limits = null,
  consent = null,
  defaults = null,
  codeSnippets = [],
  problem = "";

export function mount(section) {
  root = section;
  root.replaceChildren(el("h2", {}, "Settings & API"), el("p", { class: "empty" }, "Loading…"));
  let timer;
  onChange(() => {
    clearTimeout(timer);
    timer = setTimeout(() => codeSnippets.length && updateCode(), 300);
  });
}

// Only the newest response counts; an older one would undo what the user has changed since.
let lastFetch = 0;
export async function opened() {
  const thisFetch = ++lastFetch;
  try {
    const data = await fetchAll();
    if (thisFetch !== lastFetch) return;
    [limits, consent, defaults, me, keys, codeSnippets] = data;
    problem = "";
  } catch (error) {
    if (thisFetch !== lastFetch) return;
    problem = error.message;
  }
  draw();
}

async function fetchAll() {
  const user = encodeURIComponent(userId());
  const data = await Promise.all([
      api("limits"),
      api(`training/consent?user=${user}`),
      api(`feedback?user=${user}`),
    ]),
    value = await api("me");
  return [
    ...data,
    value,
    value.role === "admin" ? (await api("keys")).data : null,
    await snippets(),
  ];
}

async function updateCode() {
  codeSnippets = await snippets().catch(() => codeSnippets);
  root.querySelector("#code-blocks")?.replaceChildren(...codeBlocks());
}
const codeBlocks = () => codeSnippets.map(([title, text]) => codeBlock(title, text));

function draw() {
  keepFocus(root, () =>
    root.replaceChildren(
      ...[
        el("h2", {}, "Settings & API"),
        problem
          ? el(
              "div",
              { class: "problem", role: "alert" },
              problem,
              " ",
              button("Try again", opened),
            )
          : null,
        limits
          ? el(
              "div",
              { class: "two-columns" },
              el(
                "div",
                { class: "stack" },
                addressCard(),
                keysCard({ who: me, keys, on: limits.keys.on, again: opened }),
                privacyCard(),
                transferCard(),
                themeCard(),
              ),
              el("div", { class: "stack" }, serverCard(), codeCard()),
            )
          : null,
      ].filter(Boolean),
    ),
  );
}

const card = (title, ...content) =>
  el("section", { class: "card stack", "aria-label": title }, el("h3", {}, title), ...content);

const addressCard = () =>
  card(
    "Address",
    el(
      "div",
      { class: "bar" },
      el("code", { class: "grow", id: "api-base" }, API_URL),
      copyButton(API_URL),
    ),
    el(
      "p",
      { class: "muted" },
      "Any OpenAI client works with this base URL; `steering` goes into the request's " +
        "extra body. The reference is at ",
      el("a", { href: `${PAGE_URL}docs`, target: "_blank", rel: "noopener" }, "/docs"),
      ".",
    ),
    el(
      "p",
      { class: "muted" },
      limits.keys.on
        ? "This server requires an API key."
        : "This server requires no API key, since it answers on this machine only.",
    ),
  );

function codeCard() {
  return card("Code for the current sliders", el("div", { id: "code-blocks" }, codeBlocks()));
}

function serverCard() {
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
      `${requests.running} running, ${requests.waiting} waiting; room for ${requests.live} ` +
        `at once and ${requests.queue} in the queue`,
    ],
    [
      "Limits of a request",
      `${steering.max_features} features, a total strength of ${steering.max_push} of the ` +
        `residual stream's norm, ${Math.round(requests.max_body / 1024)} KiB`,
    ],
    ["Modes", steering.modes.join(", ")],
    [
      "Trainer",
      training.on
        ? `on${hours ? `, updates every ${hours} h` : ", updates when the text drifts"}`
        : "off",
    ],
    ...(me.default_preset ? [["Default persona", me.default_preset]] : []),
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

function privacyCard() {
  const agreed = el("input", {
    type: "checkbox",
    id: "consent",
    checked: consent.consent,
    "data-key": "consent",
    onchange: (e) => setConsent(e.target.checked),
  });
  const keptTexts = consent.texts ?? consent.kept ?? 0;
  return card(
    "Privacy",
    el(
      "p",
      { class: "muted" },
      "The conversation, the sliders and your votes are stored in this browser. The server " +
        "stores nothing that you type unless you agree to this:",
    ),
    el("label", {}, agreed, "Let the SAE learn from my chats"),
    el(
      "p",
      { class: "muted" },
      `Then up to ${limits.training.live_texts} of your conversations are stored for ` +
        `${limits.training.live_days} days, and the SAE (not the model) learns from them. If ` +
        `you withdraw, all of them are deleted at once. Stored now: ${keptTexts}.`,
    ),
    el(
      "div",
      { class: "bar" },
      button("Delete my conversations", () => deleteData("texts"), {
        id: "erase-texts",
        disabled: !keptTexts,
      }),
      button("Delete my votes", () => deleteData("votes"), {
        id: "erase-votes",
        disabled: !defaults.votes.length,
      }),
      button("Delete my data on the server", deleteMe, { id: "erase-me" }),
      button("Delete everything in this browser", clearBrowser, { id: "erase-browser" }),
    ),
    el(
      "p",
      { class: "muted" },
      "The server knows you as ",
      el("code", { id: "me" }, me.owner ?? userId()),
      me.owner ? ", the name of your key." : ", a random id of this browser.",
    ),
  );
}

async function setConsent(value) {
  lastFetch += 1; // ignores responses that were requested before this change
  try {
    await api("training/consent", "PUT", { user: userId(), consent: value });
    toast(
      value
        ? "Thank you. You can withdraw here at any time."
        : "Withdrawn; the stored conversations are deleted.",
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await opened();
}

async function deleteData(what) {
  const [question, path, words] = {
    texts: [
      "Delete your conversations on the server?",
      "training/texts",
      "Your conversations are deleted.",
    ],
    votes: ["Delete all votes and thumbs?", "feedback", "Your votes are deleted."],
  }[what];
  if (!(await confirmDialog(question, "Delete"))) return;
  try {
    await api(`${path}?user=${encodeURIComponent(userId())}`, "DELETE");
    toast(words);
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await opened();
}

async function deleteMe() {
  const more = me.owner
    ? ", and the personas, vectors, shared links and jobs of your key"
    : " and your vectors";
  if (
    !(await confirmDialog(
      `Delete your consent, your stored conversations, your votes${more} from the server? ` +
        "This cannot be undone.",
      "Delete my data",
    ))
  )
    return;
  try {
    const { deleted } = await api(`me?user=${encodeURIComponent(userId())}`, "DELETE");
    toast(
      `Deleted: ${
        Object.entries(deleted)
          .filter(([, n]) => n)
          .map(([kind, n]) => `${n} ${kind}`)
          .join(", ") || "nothing was stored"
      }.`,
    );
    await loadPersonas();
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await opened();
}

async function clearBrowser() {
  if (
    !(await confirmDialog(
      "Delete the conversation, the sliders and your name from this browser? Saved " +
        "personas stay on the server.",
      "Delete",
    ))
  )
    return;
  forgetHere();
  location.assign(location.pathname);
}

function transferCard() {
  const closed = missingRoleText("POST /v1/import", "An import"),
    file = el("input", {
      type: "file",
      accept: ".json,application/json",
      id: "import-file",
      "aria-label": "A file to import",
    }),
    replace = el("input", { type: "checkbox", id: "import-replace" });
  file.addEventListener(
    "change",
    () => file.files[0] && importFile(file.files[0], replace.checked, file),
  );
  return card(
    "Export and import",
    el(
      "p",
      { class: "muted" },
      "Personas, labels, notes, stars, vectors and votes, as one JSON file.",
    ),
    el("div", { class: "bar" }, button("Export everything", exportAll, { id: "export-all" })),
    ...(closed
      ? [el("p", { class: "muted" }, closed)]
      : [
          el("label", { class: "field" }, "Import a file", file),
          el("label", {}, replace, "Replace items of the same name"),
        ]),
  );
}

async function exportAll() {
  try {
    download(
      "tiller-export.json",
      JSON.stringify(await api(`export?user=${encodeURIComponent(userId())}`), null, 2),
    );
  } catch (error) {
    toast(error.message, { problem: true });
  }
}

async function importFile(file, replace, field) {
  try {
    const data = JSON.parse(await file.text()),
      path =
        data.object === "preset.bundle"
          ? `presets/import?user=${encodeURIComponent(userId())}`
          : "import";
    const done = await api(path, "POST", { ...data, ...(replace ? { replace: true } : {}) });
    await loadPersonas();
    redraw();
    toast(`Imported: ${importSummary(done)}.`);
  } catch (error) {
    toast(error instanceof SyntaxError ? "This file is not JSON." : error.message, {
      problem: true,
    });
  }
  field.value = "";
}

function importSummary({ counts, data }) {
  const parts = counts
    ? Object.entries(counts).map(
        ([kind, c]) => `${Object.values(c).reduce((a, b) => a + b, 0)} ${kind}`,
      )
    : [`${data.length} presets`];
  return parts.join(", ") || "the file has no items";
}

function themeCard() {
  const choose = el(
    "select",
    {
      id: "theme",
      "aria-label": "Theme",
      "data-key": "theme",
      onchange: (e) => {
        saveInBrowser("theme", e.target.value);
        applyTheme();
      },
    },
    [
      ["", "same as the system"],
      ["light", "light"],
      ["dark", "dark"],
    ].map(([value, words]) =>
      el("option", { value, selected: value === readFromBrowser("theme", "") }, words),
    ),
  );
  return card("Appearance", el("label", {}, "Theme", choose));
}
