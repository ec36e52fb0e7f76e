// Personas: the presets of the API as cards and as a list; choosing, saving, deleting.
const shipped = () => state.presets.find((p) => p.id === state.preset && p.readonly && p.steering.unit === "dose");
const tried = () => (shipped() ? push(shipped().steering) : 0); // a shipped persona was measured as a whole
const own = () => state.presets.find((p) => p.id === state.preset && !p.readonly);

async function loadPersonas(tries = 120) {
  try {
    state.presets = (await api("presets")).data;
  } catch (error) {
    if (error.status !== 503 || !tries) return notice(error.message, true);
    await new Promise((done) => setTimeout(done, 1000)); // the model is still being loaded
    return loadPersonas(tries - 1);
  }
}

function personaBar() {
  const option = (p) => el("option", { value: p.id, selected: p.id === state.preset }, p.name);
  const group = (label, some) => (some.length ? el("optgroup", { label }, ...some.map(option)) : null);
  const choose = el("select", { id: "preset-select", "aria-label": "Persona", "data-key": "preset-select", onchange: (e) => pick(e.target.value) },
    el("option", { value: "" }, "No persona"), group("Personas", state.presets.filter((p) => p.readonly)), group("Yours", state.presets.filter((p) => !p.readonly)));
  return el("div", { class: "persona" }, el("div", { class: "choice" }, choose, el("span", { class: "dirty", hidden: true }, "● changed")),
    state.preset ? el("p", { class: "about" }, state.presets.find((p) => p.id === state.preset)?.description || "") : null,
    el("div", { class: "acts" },
      textButton("Save as…", "save-as", askName), own() ? textButton("Save", "save", overwrite) : null,
      state.preset ? textButton("Revert", "revert", () => pick(state.preset, true)) : null, own() ? textButton("Delete", "delete-preset", forget) : null));
}

const textButton = (text, id, act) => el("button", { type: "button", id, "data-key": id, onclick: act }, text);

function drawCards() {
  const place = document.querySelector("#cards");
  if (place) place.replaceChildren(...state.presets.map((p) =>
    el("button", { type: "button", class: "card", "data-preset": p.id, "aria-pressed": String(p.id === state.preset), onclick: () => pick(p.id) },
      el("b", {}, p.name), p.description ? el("span", {}, p.description) : null)));
}

async function pick(id, quietly = false) {
  const preset = state.presets.find((p) => p.id === id);
  try {
    const rows = preset ? await rowsOf(preset) : [];
    remember();
    const s = preset ? preset.steering : { scale: 1, scope: "assistant" };
    Object.assign(state, { rows, preset: preset ? id : "", scope: s.scope, scale: s.scale, bypass: false, unfolded: null });
    state.saved = fingerprint();
    notice("");
    draw();
    if (!quietly) begin(preset);
  } catch (error) { draw(); notice(error.message, true); }
}

// A persona brings its first question, system prompt and sampling. Gradio's fields take them without asking the server:
// what came back from there would overwrite what was typed in the meantime.
function begin(preset) {
  window.tiller.chosen = (message, drawn) =>
    [preset?.starter_prompts[0] || message, preset?.system_prompt || "", ...Object.entries(drawn).map(([name, usual]) => preset?.sampling?.[name] ?? usual)];
  trigger("select");
}

async function rowsOf({ steering }) {
  const doses = steering.unit === "dose" ? {} : await dosesOf(steering);
  const one = async (f) => rowOf(await api(`features/${f.id}`), doses[f.id] ?? f.strength, f.mode);
  return Promise.all(steering.features.map(one));
}

async function dosesOf(steering) {
  const { applied } = await api("steering/validate", "POST", { model: await model(), steering: { ...steering, scale: 1 } });
  return Object.fromEntries(applied.filter((a) => a.mode === "add" || a.mode === "clamp").map((a) => [a.id, tidy(a.dose)]));
}

const rowOf = (feature, strength, mode = "add") =>
  ({ id: feature.id, label: feature.label || feature.id, strength, mode, measured: feature.dose != null, spot: feature.sweet_spot });

const slug = (name) => name.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60);

async function asPreset(id, name) {
  const { message, system, temperature, top_p, repetition_penalty } = await fields();
  const sampling = Object.fromEntries(Object.entries({ temperature, top_p, repetition_penalty }).filter(([, v]) => v != null));
  const starter = (message || "").trim(), before = state.presets.find((p) => p.id === id);
  return { id, name, description: before?.description || "", steering: steering(), system_prompt: system || null, sampling,
    starter_prompts: starter ? [starter] : before?.starter_prompts || [] };
}

function askName() {
  const input = el("input", { type: "text", id: "preset-name", maxlength: 60, placeholder: "Name of the new persona", "aria-label": "Name of the new persona" });
  const form = el("form", { class: "naming" }, input, el("button", { type: "submit", id: "preset-save", class: "primary" }, "Save"));
  form.addEventListener("submit", (event) => { event.preventDefault(); create(input.value.trim()); });
  form.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); draw(); root.querySelector("#save-as").focus(); } });
  root.querySelector(".naming")?.remove();
  root.querySelector(".persona").append(form);
  input.focus();
}

async function create(name) {
  const id = slug(name);
  if (!id) return notice("A persona's name needs a letter or a digit.", true);
  await stored(async () => api("presets", "POST", await asPreset(id, name)), id, `Saved “${name}”.`);
}

const overwrite = () => stored(async () => api(`presets/${own().id}`, "PUT", await asPreset(own().id, own().name)), own().id, `Saved “${own().name}”.`);

async function stored(call, id, words) {
  try {
    await call();
    await loadPersonas();
    state.preset = id;
    state.saved = fingerprint();
    draw();
    notice(words);
  } catch (error) { notice(error.message, true); }
}

async function forget() {
  const gone = own();
  try {
    await api(`presets/${gone.id}`, "DELETE");
    await loadPersonas();
    state.preset = "";
    draw();
    const { version, updated, readonly, ...again } = gone;
    notice(`Deleted “${gone.name}”.`, false, ["Undo", () => stored(() => api("presets", "POST", again), gone.id, `“${gone.name}” is back.`)]);
  } catch (error) { notice(error.message, true); }
}
