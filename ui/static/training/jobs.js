// Jobs: start, follow and cancel them. EventSource reconnects by itself.
import { api, API_URL } from "../lib/api.js";
import { lineChart } from "../lib/chart.js";
import { button, confirmDialog, disableWhen, el, openDialog, toast } from "../lib/dom.js";
import { missingRoleText } from "../lib/roles.js";
import { gatesNode } from "./gates.js";

const ENDED = ["succeeded", "failed", "cancelled"];
const KINDS = {
  sae_update: [
    "Update the SAE",
    "Trains on the corpus, new files and conversations that users gave; publishes only " +
      "what passes its gates.",
  ],
  describe: [
    "Describe the features",
    "Examples, histograms and logits of every feature, from the corpus.",
  ],
  label: [
    "Label the features",
    "Names each feature after what activates it, and scores the names by what they predict.",
  ],
  map: ["Draw the map", "Computes the positions of all features."],
  calibrate: ["Measure doses", "Measures how far each preset's features can be steered."],
};
// Training steps and their duration on two cores; in short ones most of it is gates and dose
// measurements.
const UPDATE_SIZES = {
  smoke: [100, "smoke, about five minutes"],
  small: [600, "small, about ten minutes"],
  full: [2000, "full, about half an hour"],
};
const NOTHING_NEW =
  "There is no new text to train on yet: name files, or wait for chats of users who let " +
  "the SAE learn from them.";
let jobs = null,
  jobForm = null,
  consentedTexts = null;

// Ignores a response that was requested before the one shown.
let lastFetch = 0,
  shownFetch = 0;
export async function refreshJobs() {
  const thisFetch = ++lastFetch,
    { data } = await api("jobs?limit=50");
  if (thisFetch > shownFetch) [shownFetch, jobs] = [thisFetch, data];
}
export const jobList = () => jobs;

export function jobsNode(limits, drift, redraw) {
  consentedTexts = drift?.given ?? null;
  jobForm ??=
    limits &&
    (missingRoleText("POST /v1/jobs")
      ? el("p", { class: "muted" }, missingRoleText("POST /v1/jobs", "Starting a job"))
      : createJobForm(limits, redraw));
  jobForm?.dispatchEvent(new Event("look")); // keeps the user's input while the list is redrawn
  return el(
    "section",
    { class: "card", "aria-label": "Jobs" },
    el("h3", {}, "Jobs"),
    jobForm,
    jobTable(redraw),
  );
}

function createJobForm(limits, redraw) {
  const type = el(
    "select",
    { id: "job-type", "aria-label": "What to do" },
    Object.entries(KINDS).map(([name, [words]]) => el("option", { value: name }, words)),
  );
  const size = el(
    "select",
    { id: "job-size", "aria-label": "How large" },
    Object.entries(UPDATE_SIZES).map(([name, [, words]]) => el("option", { value: name }, words)),
  );
  const text = el("input", {
    type: "text",
    id: "job-text",
    class: "grow",
    placeholder: "Files of new text on the server, separated by commas (optional)",
    "aria-label": "Files of new text on the server",
  });
  const publish = el("input", { type: "checkbox", id: "job-publish", checked: true });
  const hint = el("p", { class: "muted" }),
    more = el(
      "div",
      { class: "bar" },
      size,
      text,
      el("label", {}, publish, "Publish it if it passes"),
    );
  const config = () =>
    type.value === "sae_update"
      ? {
          steps: UPDATE_SIZES[size.value][0],
          publish: publish.checked,
          text: text.value
            .split(",")
            .map((t) => t.trim())
            .filter(Boolean),
        }
      : {};
  const startButton = button(
    "Start",
    async () => {
      try {
        const job = await api("jobs", "POST", { type: type.value, config: config() });
        toast(`Queued: ${KINDS[job.type][0].toLowerCase()}.`);
        document.activeElement.blur();
        await refreshJobs();
        redraw();
      } catch (error) {
        toast(error.message, { problem: true });
      }
    },
    { id: "job-start", class: "primary" },
  );
  const show = () => {
    const update = type.value === "sae_update",
      nothing = update && consentedTexts === 0 && !config().text.length;
    startButton.disabled = nothing;
    const given = consentedTexts === 1 ? "1 conversation" : `${consentedTexts} conversations`;
    hint.textContent = nothing
      ? NOTHING_NEW
      : KINDS[type.value][1] +
        (update ? " The times are those of two cores." : "") +
        (update && consentedTexts ? ` Given by users: ${given}.` : "");
    more.hidden = !update;
  };
  for (const field of [type, text]) field.addEventListener("input", show);
  const alone = limits.training.on
    ? null
    : el(
        "p",
        { class: "muted" },
        "No trainer is running: queued jobs wait until one starts (`tiller trainer`).",
      );
  return el(
    "div",
    { class: "job-form", onlook: show },
    alone,
    el("div", { class: "bar" }, type, startButton),
    hint,
    more,
  );
}

function jobTable(redraw) {
  if (!jobs) return null;
  if (!jobs.length) return el("p", { class: "empty" }, "No jobs yet.");
  const rows = jobs.map((job) =>
    el(
      "tr",
      {},
      el("td", {}, KINDS[job.type]?.[0] || job.type, " ", el("code", {}, job.id)),
      el("td", {}, stateNode(job)),
      el("td", {}, figuresText(job)),
      el(
        "td",
        {},
        el(
          "div",
          { class: "bar" },
          button("Follow", () => followJob(job), { id: `follow-${job.id}` }),
          jobButtons(job, redraw),
        ),
      ),
    ),
  );
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      { id: "jobs" },
      el(
        "tr",
        {},
        ["Job", "state", "figures"].map((h) => el("th", {}, h)),
        el("th", {}, el("span", { class: "visually-hidden" }, "Acts")),
      ),
      rows,
    ),
  );
}

function stateNode(job) {
  if (ENDED.includes(job.state) || job.state === "queued")
    return el(
      "span",
      {
        class: `chip ${{ succeeded: "ok", failed: "problem" }[job.state] || ""}`,
        title: job.error || "",
      },
      job.state,
    );
  const share = Math.round(100 * (job.progress || 0));
  return el(
    "div",
    {},
    el("progress", { max: 100, value: share, "aria-label": `${job.state}, ${share} %` }),
    el(
      "p",
      { class: "muted" },
      `${job.state}, ${share} %${job.eta_s ? `, ${formatTimeLeft(job.eta_s)} left` : ""}`,
    ),
  );
}

const formatTimeLeft = (seconds) =>
  seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
const NAMES = {
  loss: "loss",
  explained_variance: "explained",
  l0: "L0",
  dead: "dead",
  step: "step",
};
const figuresText = (job) =>
  job.error
    ? el("span", { class: "problem" }, job.error)
    : Object.entries(job.metrics || {})
        .map(([name, value]) => `${NAMES[name] || name} ${+(+value).toPrecision(3)}`)
        .join(" · ");

function jobButtons(job, redraw) {
  const act = (what, words) =>
    disableWhen(
      button(words, () => changeJob(job, what, redraw), { id: `${what}-${job.id}` }),
      missingRoleText(
        what === "delete" ? "DELETE /v1/jobs/{job_id}" : `POST /v1/jobs/{job_id}/${what}`,
      ),
    );
  if (ENDED.includes(job.state)) return act("delete", "Delete");
  return [
    job.state === "running"
      ? act("pause", "Pause")
      : job.state === "paused"
        ? act("resume", "Resume")
        : null,
    act("cancel", "Cancel"),
  ];
}

async function changeJob(job, what, redraw) {
  if (
    what === "cancel" &&
    !(await confirmDialog("Cancel this job? Its progress is lost.", "Cancel the job"))
  )
    return;
  try {
    await (what === "delete"
      ? api(`jobs/${job.id}`, "DELETE")
      : api(`jobs/${job.id}/${what}`, "POST"));
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await refreshJobs();
  redraw();
}

// A dialog that follows one job; closing it only stops following.
function followJob(job) {
  const metrics = [],
    log = el("pre", { class: "log", tabindex: 0, "aria-label": "Log" }),
    charts = el("div", { class: "two-columns" }),
    state = el("p", { role: "status" }, job.state),
    end = el("div", {});
  const sheet = openDialog(
    KINDS[job.type]?.[0] || job.type,
    state,
    charts,
    el("h3", {}, "Log"),
    log,
    end,
  );
  const source = new EventSource(`${API_URL}/jobs/${job.id}/events`);
  source.addEventListener("metric", ({ data }) => {
    metrics.push(JSON.parse(data));
    const now = metrics.at(-1);
    state.textContent = `${Math.round(100 * now.progress)} % · ${Object.entries(now)
      .filter(([k]) => k !== "progress")
      .map(([k, v]) => `${NAMES[k] || k} ${+(+v).toPrecision(3)}`)
      .join(" · ")}`;
    charts.replaceChildren(
      ...["loss", "explained_variance", "l0", "dead"]
        .map((name) => metricChart(name, metrics))
        .filter(Boolean),
    );
  });
  source.addEventListener("log", ({ data }) => {
    log.textContent += `${JSON.parse(data).line}\n`;
    log.scrollTop = log.scrollHeight;
  });
  source.addEventListener("state", async ({ data }) => {
    const update = JSON.parse(data);
    state.textContent = update.state;
    if (!ENDED.includes(update.state)) return;
    source.close();
    await showResult(job, end);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) showResult(job, end);
  });
  sheet.addEventListener("close", () => source.close());
}

async function showResult(job, place) {
  try {
    const finished = await api(`jobs/${job.id}`),
      report = finished.result?.report || finished.result;
    place.replaceChildren(
      ...[
        finished.error ? el("p", { class: "problem", role: "alert" }, finished.error) : null,
        gatesNode(report),
        el(
          "details",
          {},
          el("summary", {}, "Result"),
          el("pre", { tabindex: 0 }, JSON.stringify(finished.result, null, 2)),
        ),
      ]
        .flat()
        .filter(Boolean),
    );
  } catch {
    /* the job was deleted meanwhile */
  }
}

function metricChart(name, metrics) {
  const points = metrics.filter((m) => m[name] != null).map((m, i) => [m.step ?? i, m[name]]);
  if (points.length < 2) return null;
  return el(
    "figure",
    {},
    el("figcaption", { class: "muted" }, NAMES[name]),
    lineChart({
      lines: [{ kind: "first", points }],
      description:
        `${NAMES[name]} by step, from ${points[0][1].toPrecision(3)} to ` +
        points.at(-1)[1].toPrecision(3),
    }),
  );
}
