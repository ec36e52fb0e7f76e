// Personas: the API's presets as cards and as a list; choose, save, delete.
import { applyPreset, conversation } from "../chat/conversation.js";
import { api } from "../lib/api.js";
import { button, disableWhen, el } from "../lib/dom.js";
import { notice } from "../lib/notice.js";
import { missingRoleText } from "../lib/roles.js";
import {
  fingerprint,
  isModified,
  loadSteering,
  presetOf,
  redraw,
  state,
  steering,
} from "./slider_state.js";

const CREATE_ROUTE = "POST /v1/presets";
// The open form for a new persona's name; it survives a redraw of the panel.
let nameForm = null;
const ownPreset = () => {
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
      onchange: (e) => choosePersona(e.target.value),
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
      el("span", { class: "dirty", hidden: !isModified() }, "● changed"),
    ),
    state.preset ? el("p", { class: "about" }, presetOf()?.description || "") : null,
    el(
      "div",
      { class: "actions" },
      disableWhen(
        button("Save as…", showNameForm, { id: "save-as" }),
        missingRoleText(CREATE_ROUTE),
      ),
      ownPreset()
        ? disableWhen(button("Save", savePersona, { id: "save" }), missingRoleText(CREATE_ROUTE))
        : null,
      state.preset
        ? button("Revert", () => choosePersona(state.preset, true), { id: "revert" })
        : null,
      ownPreset()
        ? disableWhen(
            button("Delete", deletePersona, { id: "delete-preset" }),
            missingRoleText(CREATE_ROUTE),
          )
        : null,
    ),
    nameForm,
  );
}

export function personaCards() {
  return state.presets.map((p) =>
    el(
      "button",
      {
        type: "button",
        class: "card",
        "data-preset": p.id,
        "aria-pressed": String(p.id === state.preset),
        onclick: () => choosePersona(p.id),
      },
      el("b", {}, p.name),
      p.description ? el("span", {}, p.description) : null,
    ),
  );
}

export async function choosePersona(id, quietly = false) {
  const preset = presetOf(id),
    draft = conversation.draft;
  try {
    const missing = await loadSteering(preset ? preset.steering : { features: [], unit: "dose" }, {
      preset: preset ? id : "",
    });
    if (!missing) return;
    if (!quietly) applyPreset(preset, draft);
    notice(
      missing.length
        ? `${missing.length} of its features are not in this SAE and were left out: ` +
            `${missing.join(", ")}.`
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

function presetFromState(id, name) {
  const { temperature, top_p, repetition_penalty } = conversation.sampling,
    before = presetOf(id),
    starter = conversation.draft.trim();
  const sampling = Object.fromEntries(
    Object.entries({ temperature, top_p, repetition_penalty }).filter(([, v]) => v != null),
  );
  return {
    id,
    name,
    description: before?.description || "",
    steering: steering(),
    system_prompt: conversation.system || null,
    sampling,
    starter_prompts: starter ? [starter] : before?.starter_prompts || [],
  };
}

function showNameForm() {
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
    { class: "name-form" },
    input,
    el("button", { type: "submit", id: "preset-save", class: "primary" }, "Save"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    createPersona(input.value.trim());
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      nameForm = null;
      redraw();
      document.querySelector("#save-as").focus();
    }
  });
  nameForm?.remove();
  nameForm = form;
  document.querySelector(".persona").append(form);
  input.focus();
}

async function createPersona(name) {
  const id = slug(name);
  if (!id) return notice("A persona's name needs a letter or a digit.", true);
  await storePersona(
    () =>
      api("presets", "POST", presetFromState(id, name)).catch((error) => {
        throw nameTakenError(error, presetOf(id)?.name ?? name);
      }),
    id,
    `Saved “${name}”.`,
  );
}

// Says the name in place of the id, which the page does not show.
const nameTakenError = (error, name) =>
  error.code === "preset_exists"
    ? new Error(`There is already a persona called “${name}”: choose another name.`)
    : error;

const savePersona = () => {
  const p = ownPreset();
  return storePersona(
    () => api(`presets/${p.id}`, "PUT", presetFromState(p.id, p.name)),
    p.id,
    `Saved “${p.name}”.`,
  );
};

async function storePersona(call, id, words) {
  try {
    await call();
    await loadPersonas();
    state.preset = id;
    state.saved = fingerprint();
    nameForm = null;
    redraw();
    notice(words);
  } catch (error) {
    notice(error.message, true);
  }
}

async function deletePersona() {
  const gone = ownPreset();
  try {
    await api(`presets/${gone.id}`, "DELETE");
    await loadPersonas();
    state.preset = "";
    redraw();
    const { version, updated, readonly, ...again } = gone;
    notice(`Deleted “${gone.name}”.`, false, [
      "Undo",
      () => storePersona(() => api("presets", "POST", again), gone.id, `Restored “${gone.name}”.`),
    ]);
  } catch (error) {
    notice(error.message, true);
  }
}
