// Feature drawer: all about one feature, as an aside or, on narrow screens, as a dialog. Escape
// closes it and restores the focus.
import { api, featurePath } from "../lib/api.js";
import { button, copyButton, disableWhen, el, icon, toast } from "../lib/dom.js";
import { missingRoleText } from "../lib/roles.js";
import { addButton, editRoleText, onSaved, saveFeature, starButton } from "./actions.js";
import { featureName } from "./descriptions.js";
import {
  attributionSection,
  doseSection,
  examplesSection,
  figuresNode,
  histogramSection,
  logitsSection,
  neighboursSection,
} from "./feature_facts.js";

const NARROW = matchMedia("(max-width: 1240px)");
const POLL_MS = 1500;
const measurements = new Map();

// `more(feature)` returns additional buttons, such as a link to another tab.
export function createDrawer(host, { more = () => null, shown = () => {} } = {}) {
  const body = el("div", { class: "drawer-body" });
  const self = { feature: null, id: null, body, past: [], back: null, holder: null, more };
  self.open = (id, { back = document.activeElement, again = false } = {}) => {
    if (!again) self.past = [];
    if (!self.holder) self.back = back;
    self.id = id;
    attach(self, host);
    shown(id);
    return load(self);
  };
  self.close = () => close(self, shown);
  // A dialog covers every tab, so it closes when another tab opens.
  self.leave = () => self.holder?.tagName === "DIALOG" && self.close();
  addEventListener("popstate", self.leave);
  NARROW.addEventListener("change", () => self.holder && attach(self, host));
  host.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || self.holder?.tagName !== "ASIDE")
      return;
    event.preventDefault();
    self.close();
  });
  onSaved((saved) => {
    if (saved.id === self.id && self.feature) draw(self, saved);
  });
  return self;
}

function attach(self, host) {
  if (self.holder && (self.holder.tagName === "DIALOG") === NARROW.matches) return;
  const before = self.holder;
  self.holder = NARROW.matches
    ? el("dialog", { class: "sheet drawer", "aria-label": "Feature" }, self.body)
    : el("aside", { class: "drawer card", "aria-label": "Feature" }, self.body);
  before?.remove();
  if (self.holder.tagName === "ASIDE") return host.append(self.holder);
  self.holder.addEventListener("close", () => self.close());
  self.holder.addEventListener("click", (event) => {
    if (event.target === self.holder) self.close();
  });
  host.closest(".tab").append(self.holder);
  self.holder.showModal();
}

function close(self, shown) {
  const { holder, back, id } = self;
  if (!holder) return;
  self.holder = self.id = self.feature = null;
  holder.remove();
  shown(null);
  (back?.isConnected
    ? back
    : document.querySelector(`[data-key="row ${CSS.escape(id)}"]`)
  )?.focus();
}

async function load(self) {
  const { id } = self;
  self.body.replaceChildren(
    headerNode(self, id),
    el("p", { class: "muted", role: "status" }, "Loading…"),
  );
  self.body.querySelector("h2").focus();
  try {
    const feature = await api(featurePath(id));
    if (self.id === id) draw(self, feature, true);
  } catch (error) {
    if (self.id === id)
      self.body.replaceChildren(
        headerNode(self, id),
        el("p", { class: "problem", role: "alert" }, error.message),
        button("Try again", () => load(self)),
      );
  }
}

function draw(self, feature, fresh = false) {
  const key = self.body.contains(document.activeElement)
      ? document.activeElement.dataset.key
      : null,
    top = self.holder.scrollTop;
  const draft = fresh ? null : self.body.querySelector("textarea")?.value,
    naming = fresh ? null : self.body.querySelector(".name-form > form");
  self.feature = feature;
  const go = (id) => {
    self.past.push(feature.id);
    self.open(id, { again: true });
  };
  self.body.replaceChildren(
    headerNode(self, featureName(feature)),
    el("p", { class: "id" }, el("code", {}, feature.id), copyButton(feature.id, "Copy id")),
    el(
      "div",
      { class: "actions" },
      addButton(feature, "slider"),
      starButton(feature),
      disableWhen(
        button("Rename", () => showRenameForm(self), { "data-key": "rename" }),
        editRoleText(),
      ),
      self.more(feature),
    ),
    el("div", { class: "name-form" }, naming),
    figuresNode(feature),
    doseSection(feature),
    measureSection(self),
    ...[
      examplesSection(feature),
      histogramSection(feature),
      logitsSection(feature),
      neighboursSection(feature, go),
      attributionSection(feature),
    ].filter(Boolean),
    noteSection(feature, draft ?? feature.note),
  );
  self.holder.scrollTop = fresh ? 0 : top;
  (fresh
    ? self.body.querySelector("h2")
    : key && self.body.querySelector(`[data-key="${CSS.escape(key)}"]`)
  )?.focus();
}

const headerNode = (self, title) =>
  el(
    "div",
    { class: "bar head" },
    self.past.length
      ? icon("←", "Back to the feature before", () => self.open(self.past.pop(), { again: true }), {
          "data-key": "drawer-back",
        })
      : null,
    el("h2", { tabindex: -1, "data-key": "drawer-title" }, title),
    icon("✕", "Close", self.close, { "data-key": "drawer-close" }),
  );

function showRenameForm(self) {
  const { feature } = self;
  const name = el("input", {
    type: "text",
    "data-key": "feature-name",
    maxlength: 200,
    value: feature.label,
    "aria-label": "Name",
  });
  const submit = (changes) => saveFeature(feature, changes).then(closeForm, toastError);
  const closeForm = () => {
    const place = self.body.querySelector(".name-form");
    if (!place?.contains(form)) return;
    place.replaceChildren();
    self.body.querySelector("[data-key=rename]").focus();
  };
  const form = el(
    "form",
    { class: "bar" },
    name,
    button("Save", null, { type: "submit", class: "primary", "data-key": "name-save" }),
    button("Cancel", closeForm),
    feature.edited?.label != null
      ? button(
          `Reset to “${feature.edited.before?.label || "no label"}”`,
          () => submit({ label: null }),
          { "data-key": "name-back" },
        )
      : null,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    name.value.trim() ? submit({ label: name.value }) : closeForm();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      closeForm();
    }
  });
  self.body.querySelector(".name-form").replaceChildren(form);
  name.select();
}

// Note editor; the draft survives a redraw, as when the feature is starred.
function noteSection(feature, draft) {
  const note = el("textarea", {
      rows: 3,
      maxlength: 4000,
      "aria-label": "Note",
      placeholder: "What did you notice? Everybody on this server can read it.",
    }),
    keep = button("Save note", null, {
      "data-key": "note-save",
      disabled: draft === feature.note,
    });
  note.value = draft;
  note.addEventListener("input", () => {
    keep.disabled = note.value === feature.note;
  });
  keep.addEventListener("click", () =>
    saveFeature(feature, { note: note.value.trim() || null }).then(
      () => toast("The note is saved."),
      toastError,
    ),
  );
  if (editRoleText())
    return el(
      "section",
      { class: "fact" },
      el("h3", {}, "Note"),
      el("p", {}, feature.note || "No note."),
      el("p", { class: "muted" }, editRoleText()),
    );
  return el("section", { class: "fact" }, el("h3", {}, "Note"), note, keep);
}

const toastError = (error) => toast(error.message, { problem: true });

// Dose measurement: a job of the trainer process; the drawer may be closed while it runs.
function measureSection(self) {
  const { feature } = self,
    statusNode = el("span", { role: "status", class: "muted" }, measurements.get(feature.id) || "");
  const ask = button(
    feature.dose == null ? "Measure the dose" : "Measure again",
    () => measureDose(self, feature),
    { "data-key": "measure", disabled: measurements.has(feature.id) },
  );
  return el(
    "div",
    { class: "measuring" },
    disableWhen(ask, missingRoleText("POST /v1/features/{feature_id:path}/calibrate")),
    statusNode,
  );
}

async function measureDose(self, feature) {
  const setStatus = (words) => {
    words ? measurements.set(feature.id, words) : measurements.delete(feature.id);
    if (self.id !== feature.id) return;
    self.body.querySelector(".measuring [role=status]").textContent = words;
    self.body.querySelector("[data-key=measure]").disabled = Boolean(words);
  };
  setStatus("Starting…");
  try {
    const job = await untilJobEnds(
      await api(`${featurePath(feature.id)}/calibrate`, "POST", {}),
      setStatus,
    );
    if (job.state !== "succeeded")
      throw new Error(job.error || `The measurement was ${job.state}.`);
    setStatus("Measured; waiting until it is served…");
    const fresh = await untilServed(feature);
    toast(`The dose of ${featureName(fresh)} was measured.`);
    if (self.id === feature.id) draw(self, fresh);
  } catch (error) {
    toastError(
      [404, 405].includes(error.status) && error.code !== "feature_not_found"
        ? new Error("This server cannot measure doses; run `tiller calibrate` on its machine.")
        : error,
    );
  }
  setStatus("");
}

const pause = () => new Promise((submit) => setTimeout(submit, POLL_MS));

async function untilJobEnds(job, setStatus) {
  for (let now = job; ; now = await api(`jobs/${job.id}`)) {
    if (["succeeded", "failed", "cancelled"].includes(now.state)) return now;
    // the job reports little progress before the one feature is done
    const progressText = now.progress
      ? `Measuring: ${Math.round(100 * now.progress)} %`
      : "Measuring; this may take some minutes…";
    setStatus(now.state === "running" ? progressText : "Waiting for the trainer to start…");
    await pause();
  }
}

async function untilServed(feature) {
  for (let i = 0; ; i++) {
    const now = await api(featurePath(feature.id));
    if (
      i > 20 ||
      JSON.stringify([now.dose, now.calibration]) !==
        JSON.stringify([feature.dose, feature.calibration])
    )
      return now;
    await pause();
  }
}
