// Jobs: start one, follow it as it runs, end it. Follows by server-sent events, which the browser goes on with by itself.
import { api, BASE } from "../lib/api.js";
import { lineChart } from "../lib/chart.js";
import { button, confirmed, el, off, openDialog, toast } from "../lib/dom.js";
import { beyond } from "../lib/roles.js";
import { gatesNode } from "./gates.js";

const ENDED = ["succeeded", "failed", "cancelled"];
const KINDS = {
  sae_update: [
    "Update the SAE",
    "Learns from the corpus, new files and what people agreed to give; publishes only what passes its gates.",
  ],
  describe: [
    "Describe the features",
    "Examples, histograms and logits of every feature, from the corpus.",
  ],
  label: [
    "Label the features",
    "Names from what each feature fires on, scored by what they predict.",
  ],
  map: ["Draw the map", "Places all features in the plane."],
  calibrate: ["Measure doses", "How far each preset's features may go."],
};
// Steps, and how long they take on two cores, most of a short one for gates and for doses of what is new.
const SIZES = {
  smoke: [100, "smoke, about five minutes"],
  small: [600, "small, about ten minutes"],
  full: [2000, "full, about half an hour"],
};
const NOTHING =
  "There is nothing new to learn from yet: name files of new text, or wait until people who let the SAE learn from their chats have written.";
let jobs = null,
  form = null,
  given = null;

// A list that was asked for before the one that is shown is older than it.
let asked = 0,
  shown = 0;
export async function refresh() {
  const mine = ++asked,
    { data } = await api("jobs?limit=50");
  if (mine > shown) [shown, jobs] = [mine, data];
}
export const listed = () => jobs;

export function jobsNode(limits, drift, redraw) {
  given = drift?.given ?? null;
  form ??=
    limits &&
    (beyond("POST /v1/jobs")
      ? el("p", { class: "muted" }, beyond("POST /v1/jobs", "Starting a job"))
      : starter(limits, redraw));
  form?.dispatchEvent(new Event("look")); // what somebody has chosen in it stays while the list is drawn anew
  return el(
    "section",
    { class: "card", "aria-label": "Jobs" },
    el("h3", {}, "Jobs"),
    form,
    table(redraw),
  );
}

function starter(limits, redraw) {
  const type = el(
    "select",
    { id: "job-type", "aria-label": "What to do" },
    Object.entries(KINDS).map(([name, [words]]) => el("option", { value: name }, words)),
  );
  const size = el(
    "select",
    { id: "job-size", "aria-label": "How large" },
    Object.entries(SIZES).map(([name, [, words]]) => el("option", { value: name }, words)),
  );
  const text = el("input", {
    type: "text",
    id: "job-text",
    class: "grow",
    placeholder: "Files of new text on the server, separated by commas (optional)",
    "aria-label": "Files of new text on the server",
  });
  const publish = el("input", { type: "checkbox", id: "job-publish", checked: true });
  const told = el("p", { class: "muted" }),
    more = el(
      "div",
      { class: "bar" },
      size,
      text,
      el("label", {}, publish, "Serve it if it passes"),
    );
  const config = () =>
    type.value === "sae_update"
      ? {
          steps: SIZES[size.value][0],
          publish: publish.checked,
          text: text.value
            .split(",")
            .map((t) => t.trim())
            .filter(Boolean),
        }
      : {};
  const go = button(
    "Start",
    async () => {
      try {
        const job = await api("jobs", "POST", { type: type.value, config: config() });
        toast(`Queued: ${KINDS[job.type][0].toLowerCase()}.`);
        document.activeElement.blur();
        await refresh();
        redraw();
      } catch (error) {
        toast(error.message, { problem: true });
      }
    },
    { id: "job-start", class: "primary" },
  );
  const show = () => {
    const update = type.value === "sae_update",
      nothing = update && given === 0 && !config().text.length;
    go.disabled = nothing;
    told.textContent = nothing
      ? NOTHING
      : `${KINDS[type.value][1]}${update ? " The times are those of two cores." : ""}${update && given ? ` Given by people: ${given === 1 ? "1 conversation" : `${given} conversations`}.` : ""}`;
    more.hidden = !update;
  };
  for (const field of [type, text]) field.addEventListener("input", show);
  const alone = limits.training.on
    ? null
    : el(
        "p",
        { class: "muted" },
        "No trainer runs beside this server: what is queued waits until one does (`tiller trainer`).",
      );
  return el(
    "div",
    { class: "starter", onlook: show },
    alone,
    el("div", { class: "bar" }, type, go),
    told,
    more,
  );
}

function table(redraw) {
  if (!jobs) return null;
  if (!jobs.length) return el("p", { class: "empty" }, "No jobs yet.");
  const rows = jobs.map((job) =>
    el(
      "tr",
      {},
      el("td", {}, KINDS[job.type]?.[0] || job.type, " ", el("code", {}, job.id)),
      el("td", {}, stateNode(job)),
      el("td", {}, figures(job)),
      el(
        "td",
        {},
        el(
          "div",
          { class: "bar" },
          button("Follow", () => follow(job), { id: `follow-${job.id}` }),
          acts(job, redraw),
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
        el("th", {}, el("span", { class: "away" }, "Acts")),
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
      `${job.state}, ${share} %${job.eta_s ? `, ${left(job.eta_s)} left` : ""}`,
    ),
  );
}

const left = (seconds) =>
  seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
const NAMES = {
  loss: "loss",
  explained_variance: "explained",
  l0: "L0",
  dead: "dead",
  step: "step",
};
const figures = (job) =>
  job.error
    ? el("span", { class: "problem" }, job.error)
    : Object.entries(job.metrics || {})
        .map(([name, value]) => `${NAMES[name] || name} ${+(+value).toPrecision(3)}`)
        .join(" · ");

function acts(job, redraw) {
  const act = (what, words) =>
    off(
      button(words, () => change(job, what, redraw), { id: `${what}-${job.id}` }),
      beyond(what === "delete" ? "DELETE /v1/jobs/{job_id}" : `POST /v1/jobs/{job_id}/${what}`),
    );
  if (ENDED.includes(job.state)) return act("delete", "Forget");
  return [
    job.state === "running"
      ? act("pause", "Pause")
      : job.state === "paused"
        ? act("resume", "Go on")
        : null,
    act("cancel", "Cancel"),
  ];
}

async function change(job, what, redraw) {
  if (
    what === "cancel" &&
    !(await confirmed("Cancel this job? What it has done is not kept.", "Cancel the job"))
  )
    return;
  try {
    await (what === "delete"
      ? api(`jobs/${job.id}`, "DELETE")
      : api(`jobs/${job.id}/${what}`, "POST"));
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await refresh();
  redraw();
}

// A sheet that shows one job as it goes; closing it stops listening and nothing else.
function follow(job) {
  const metrics = [],
    log = el("pre", { class: "log", tabindex: 0, "aria-label": "Log" }),
    charts = el("div", { class: "two" }),
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
  const source = new EventSource(`${BASE}/jobs/${job.id}/events`);
  source.addEventListener("metric", ({ data }) => {
    metrics.push(JSON.parse(data));
    const now = metrics.at(-1);
    state.textContent = `${Math.round(100 * now.progress)} % · ${Object.entries(now)
      .filter(([k]) => k !== "progress")
      .map(([k, v]) => `${NAMES[k] || k} ${+(+v).toPrecision(3)}`)
      .join(" · ")}`;
    charts.replaceChildren(
      ...["loss", "explained_variance", "l0", "dead"]
        .map((name) => chart(name, metrics))
        .filter(Boolean),
    );
  });
  source.addEventListener("log", ({ data }) => {
    log.textContent += `${JSON.parse(data).line}\n`;
    log.scrollTop = log.scrollHeight;
  });
  source.addEventListener("state", async ({ data }) => {
    const told = JSON.parse(data);
    state.textContent = told.state;
    if (!ENDED.includes(told.state)) return;
    source.close();
    await ended(job, end);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) ended(job, end);
  });
  sheet.addEventListener("close", () => source.close());
}

async function ended(job, place) {
  try {
    const whole = await api(`jobs/${job.id}`),
      told = whole.result?.report || whole.result;
    place.replaceChildren(
      ...[
        whole.error ? el("p", { class: "problem", role: "alert" }, whole.error) : null,
        gatesNode(told),
        el(
          "details",
          {},
          el("summary", {}, "Result"),
          el("pre", { tabindex: 0 }, JSON.stringify(whole.result, null, 2)),
        ),
      ]
        .flat()
        .filter(Boolean),
    );
  } catch {
    /* it was forgotten meanwhile */
  }
}

function chart(name, metrics) {
  const points = metrics.filter((m) => m[name] != null).map((m, i) => [m.step ?? i, m[name]]);
  if (points.length < 2) return null;
  return el(
    "figure",
    {},
    el("figcaption", { class: "muted" }, NAMES[name]),
    lineChart({
      lines: [{ kind: "first", points }],
      words: `${NAMES[name]} by step, from ${points[0][1].toPrecision(3)} to ${points.at(-1)[1].toPrecision(3)}`,
    }),
  );
}
