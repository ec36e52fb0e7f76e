// One feature in full, beside a list or, where there is no room, as a sheet. Escape closes it and the focus goes back.
import { api, featurePath } from "../lib/api.js";
import { button, copyButton, el, icon, off, toast } from "../lib/dom.js";
import { attribution, doses, examples, figures, histogram, logits, neighbours } from "./facts.js";
import { nameOf } from "./descriptions.js";
import { mayEdit, onSaved, plus, save, star } from "./actions.js";
import { beyond } from "../lib/roles.js";

const NARROW = matchMedia("(max-width: 1240px)");
const LOOKS = 1500;
const jobs = new Map();

// `more` makes buttons of the tab's own, such as the way to the map.
export function drawerIn(host, { more = () => null, shown = () => {} } = {}) {
  const body = el("div", { class: "inside-of" });
  const self = { feature: null, id: null, body, past: [], back: null, holder: null, more };
  self.open = (id, { back = document.activeElement, again = false } = {}) => {
    if (!again) self.past = [];
    if (!self.holder) self.back = back;
    self.id = id;
    place(self, host);
    shown(id);
    return load(self);
  };
  self.close = () => close(self, shown);
  // A sheet lies over every tab, so it goes when another one is opened.
  self.leave = () => self.holder?.tagName === "DIALOG" && self.close();
  addEventListener("popstate", self.leave);
  NARROW.addEventListener("change", () => self.holder && place(self, host));
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

function place(self, host) {
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
    head(self, id),
    el("p", { class: "muted", role: "status" }, "Loading…"),
  );
  self.body.querySelector("h2").focus();
  try {
    const feature = await api(featurePath(id));
    if (self.id === id) draw(self, feature, true);
  } catch (error) {
    if (self.id === id)
      self.body.replaceChildren(
        head(self, id),
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
    naming = fresh ? null : self.body.querySelector(".naming > form");
  self.feature = feature;
  const go = (id) => {
    self.past.push(feature.id);
    self.open(id, { again: true });
  };
  self.body.replaceChildren(
    head(self, nameOf(feature)),
    el("p", { class: "id" }, el("code", {}, feature.id), copyButton(feature.id, "Copy id")),
    el(
      "div",
      { class: "acts" },
      plus(feature, "slider"),
      star(feature),
      off(
        button("Rename", () => rename(self), { "data-key": "rename" }),
        mayEdit(),
      ),
      self.more(feature),
    ),
    el("div", { class: "naming" }, naming),
    figures(feature),
    doses(feature),
    measuring(self),
    ...[
      examples(feature),
      histogram(feature),
      logits(feature),
      neighbours(feature, go),
      attribution(feature),
    ].filter(Boolean),
    noting(feature, draft ?? feature.note),
  );
  self.holder.scrollTop = fresh ? 0 : top;
  (fresh
    ? self.body.querySelector("h2")
    : key && self.body.querySelector(`[data-key="${CSS.escape(key)}"]`)
  )?.focus();
}

const head = (self, title) =>
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

function rename(self) {
  const { feature } = self;
  const name = el("input", {
    type: "text",
    "data-key": "feature-name",
    maxlength: 200,
    value: feature.label,
    "aria-label": "Name",
  });
  const done = (changes) => save(feature, changes).then(leave, problem);
  const leave = () => {
    const place = self.body.querySelector(".naming");
    if (!place?.contains(form)) return;
    place.replaceChildren();
    self.body.querySelector("[data-key=rename]").focus();
  };
  const form = el(
    "form",
    { class: "bar" },
    name,
    button("Save", null, { type: "submit", class: "primary", "data-key": "name-save" }),
    button("Leave it", leave),
    feature.edited?.label != null
      ? button(
          `Back to “${feature.edited.before?.label || "no label"}”`,
          () => done({ label: null }),
          { "data-key": "name-back" },
        )
      : null,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    name.value.trim() ? done({ label: name.value }) : leave();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      leave();
    }
  });
  self.body.querySelector(".naming").replaceChildren(form);
  name.select();
}

// What is being written stays when the feature is starred meanwhile, as a name does.
function noting(feature, draft) {
  const note = el("textarea", {
      rows: 3,
      maxlength: 4000,
      "aria-label": "Note",
      placeholder: "What did you notice? Everybody on this server can read it.",
    }),
    keep = button("Save the note", null, {
      "data-key": "note-save",
      disabled: draft === feature.note,
    });
  note.value = draft;
  note.addEventListener("input", () => {
    keep.disabled = note.value === feature.note;
  });
  keep.addEventListener("click", () =>
    save(feature, { note: note.value.trim() || null }).then(
      () => toast("The note is saved."),
      problem,
    ),
  );
  if (mayEdit())
    return el(
      "section",
      { class: "fact" },
      el("h3", {}, "Note"),
      el("p", {}, feature.note || "No note."),
      el("p", { class: "muted" }, mayEdit()),
    );
  return el("section", { class: "fact" }, el("h3", {}, "Note"), note, keep);
}

const problem = (error) => toast(error.message, { problem: true });

// Measuring runs beside the server; the drawer may be closed meanwhile.
function measuring(self) {
  const { feature } = self,
    told = el("span", { role: "status", class: "muted" }, jobs.get(feature.id) || "");
  const ask = button(
    feature.dose == null ? "Measure its dose" : "Measure again",
    () => measure(self, feature),
    { "data-key": "measure", disabled: jobs.has(feature.id) },
  );
  return el(
    "div",
    { class: "measuring" },
    off(ask, beyond("POST /v1/features/{feature_id:path}/calibrate")),
    told,
  );
}

async function measure(self, feature) {
  const say = (words) => {
    words ? jobs.set(feature.id, words) : jobs.delete(feature.id);
    if (self.id !== feature.id) return;
    self.body.querySelector(".measuring [role=status]").textContent = words;
    self.body.querySelector("[data-key=measure]").disabled = Boolean(words);
  };
  say("Asking…");
  try {
    const job = await ended(await api(`${featurePath(feature.id)}/calibrate`, "POST", {}), say);
    if (job.state !== "succeeded")
      throw new Error(job.error || `The measurement was ${job.state}.`);
    say("Measured; waiting until it is served…");
    const fresh = await served(feature);
    toast(`The dose of ${nameOf(fresh)} was measured.`);
    if (self.id === feature.id) draw(self, fresh);
  } catch (error) {
    problem(
      [404, 405].includes(error.status) && error.code !== "feature_not_found"
        ? new Error(
            "This server cannot measure a feature's dose by itself; run `tiller calibrate` beside it.",
          )
        : error,
    );
  }
  say("");
}

const pause = () => new Promise((done) => setTimeout(done, LOOKS));

async function ended(job, say) {
  for (let now = job; ; now = await api(`jobs/${job.id}`)) {
    if (["succeeded", "failed", "cancelled"].includes(now.state)) return now;
    // One feature is most of its job, which says little of how far it is until then.
    const far = now.progress
      ? `Measuring: ${Math.round(100 * now.progress)} %`
      : "Measuring; this may take some minutes…";
    say(now.state === "running" ? far : "Waiting for the trainer to begin…");
    await pause();
  }
}

async function served(feature) {
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
