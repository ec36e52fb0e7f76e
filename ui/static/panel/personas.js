// Personas: the presets of the API as cards and as a list; choosing, saving, deleting.
import { api } from "../lib/api.js";
import { button, el, off } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { beyond } from "../lib/roles.js";
import { dirty, fingerprint, presetOf, redraw, state, steering, take } from "./slider_state.js";
import { begin, talk } from "../chat/conversation.js";

const MAKE = "POST /v1/presets";
// The form for a new persona's name, while it is open: it stays when the panel is drawn anew.
let naming = null;
const own = () => {
  const p = presetOf();
  return p && !p.readonly ? p : null;
};

export async function loadPersonas() {
  state.presets = (await api("presets")).data;
}

export function personaBar() {
  const option = (p) => el("option", { value: p.id, selected: p.id === state.preset }, p.name);
  const group = (label, some) => (some.length ? el("optgroup", { label }, some.map(option)) : null);
  const choose = el(
    "select",
    {
      id: "preset-select",
      "aria-label": "Persona",
      "data-key": "preset-select",
      onchange: (e) => pick(e.target.value),
    },
    el("option", { value: "" }, "No persona"),
    group(
      "Personas",
      state.presets.filter((p) => p.readonly),
    ),
    group(
      "Yours",
      state.presets.filter((p) => !p.readonly),
    ),
  );
  return el(
    "div",
    { class: "persona" },
    el(
      "div",
      { class: "choice" },
      choose,
      el("span", { class: "dirty", hidden: !dirty() }, "● changed"),
    ),
    state.preset ? el("p", { class: "about" }, presetOf()?.description || "") : null,
    el(
      "div",
      { class: "acts" },
      off(button("Save as…", askName, { id: "save-as" }), beyond(MAKE)),
      own() ? off(button("Save", overwrite, { id: "save" }), beyond(MAKE)) : null,
      state.preset ? button("Revert", () => pick(state.preset, true), { id: "revert" }) : null,
      own() ? off(button("Delete", forget, { id: "delete-preset" }), beyond(MAKE)) : null,
    ),
    naming,
  );
}

export function cards() {
  return state.presets.map((p) =>
    el(
      "button",
      {
        type: "button",
        class: "card",
        "data-preset": p.id,
        "aria-pressed": String(p.id === state.preset),
        onclick: () => pick(p.id),
      },
      el("b", {}, p.name),
      p.description ? el("span", {}, p.description) : null,
    ),
  );
}

export async function pick(id, quietly = false) {
  const preset = presetOf(id),
    draft = talk.draft;
  try {
    const missing = await take(preset ? preset.steering : { features: [], unit: "dose" }, {
      preset: preset ? id : "",
    });
    if (!missing) return;
    if (!quietly) begin(preset, draft);
    notice(
      missing.length
        ? `${missing.length} of its features are not in this SAE and were left out: ${missing.join(", ")}.`
        : "",
      missing.length > 0,
    );
  } catch (error) {
    redraw();
    notice(error.message, true);
  }
}

const slug = (name) =>
  name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 60);

function asPreset(id, name) {
  const { temperature, top_p, repetition_penalty } = talk.sampling,
    before = presetOf(id),
    starter = talk.draft.trim();
  const sampling = Object.fromEntries(
    Object.entries({ temperature, top_p, repetition_penalty }).filter(([, v]) => v != null),
  );
  return {
    id,
    name,
    description: before?.description || "",
    steering: steering(),
    system_prompt: talk.system || null,
    sampling,
    starter_prompts: starter ? [starter] : before?.starter_prompts || [],
  };
}

function askName() {
  const input = el("input", {
    type: "text",
    id: "preset-name",
    maxlength: 60,
    placeholder: "Name of the new persona",
    "data-key": "preset-name",
    "aria-label": "Name of the new persona",
  });
  const form = el(
    "form",
    { class: "naming" },
    input,
    el("button", { type: "submit", id: "preset-save", class: "primary" }, "Save"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    create(input.value.trim());
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      naming = null;
      redraw();
      document.querySelector("#save-as").focus();
    }
  });
  naming?.remove();
  naming = form;
  document.querySelector(".persona").append(form);
  input.focus();
}

async function create(name) {
  const id = slug(name);
  if (!id) return notice("A persona's name needs a letter or a digit.", true);
  await stored(
    () =>
      api("presets", "POST", asPreset(id, name)).catch((error) => {
        throw taken(error, presetOf(id)?.name ?? name);
      }),
    id,
    `Saved “${name}”.`,
  );
}

// The API speaks of ids, which nobody sees here.
const taken = (error, name) =>
  error.code === "preset_exists"
    ? new Error(`There is already a persona called “${name}”: choose another name.`)
    : error;

const overwrite = () => {
  const p = own();
  return stored(
    () => api(`presets/${p.id}`, "PUT", asPreset(p.id, p.name)),
    p.id,
    `Saved “${p.name}”.`,
  );
};

async function stored(call, id, words) {
  try {
    await call();
    await loadPersonas();
    state.preset = id;
    state.saved = fingerprint();
    naming = null;
    redraw();
    notice(words);
  } catch (error) {
    notice(error.message, true);
  }
}

async function forget() {
  const gone = own();
  try {
    await api(`presets/${gone.id}`, "DELETE");
    await loadPersonas();
    state.preset = "";
    redraw();
    const { version, updated, readonly, ...again } = gone;
    notice(`Deleted “${gone.name}”.`, false, [
      "Undo",
      () => stored(() => api("presets", "POST", again), gone.id, `“${gone.name}” is back.`),
    ]);
  } catch (error) {
    notice(error.message, true);
  }
}
