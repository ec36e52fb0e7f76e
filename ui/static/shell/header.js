// The model's name and whether it is there, and the tabs. A tab's code is fetched when it is first opened.
import { HERE } from "../lib/api.js";
import { el } from "../lib/dom.js";
import { ofBrowser } from "../lib/storage.js";

const TABS = [
  ["chat", "Chat"],
  ["compare", "Compare"],
  ["features", "Features"],
  ["map", "Map"],
  ["analyze", "Analyze"],
  ["train", "Train"],
  ["settings", "Settings"],
];
const MODULES = { train: "../training/training.js" };
const shown = {},
  missing = {};
let list,
  ready = false;

export function mount(element) {
  list = element.querySelector(".tabs");
  list.replaceChildren(
    ...TABS.map(([name, label]) =>
      el(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${name}`,
          "aria-controls": `section-${name}`,
          onclick: () => open(name),
        },
        label,
      ),
    ),
  );
  list.addEventListener("keydown", onKey);
  addEventListener("popstate", () => show(wanted()));
  show(wanted());
  watch(element.querySelector("#state"));
  if (ofBrowser("theme", "")) theme();
}

// Light or dark as somebody chose, or as the system has it.
export function theme() {
  const wanted = ofBrowser("theme", "");
  document.body.classList.toggle(
    "dark",
    wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches,
  );
}

const wanted = () => {
  const name = new URLSearchParams(location.search).get("tab");
  return TABS.some(([n]) => n === name) ? name : "chat";
};

// Opens a tab; `how` is told to it, such as a feature to show.
export function open(name, how) {
  const at = new URL(location.href);
  name === "chat" ? at.searchParams.delete("tab") : at.searchParams.set("tab", name);
  if (at.href !== location.href) history.pushState(null, "", at);
  return show(name, how);
}

async function show(name, how) {
  document.body.dataset.tab = name;
  for (const tab of list.children) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    if (on) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  for (const section of document.querySelectorAll("[role=tabpanel]"))
    section.hidden = section.id !== `section-${name}`;
  if (name === "chat") return;
  const section = await until(() => document.querySelector(`#section-${name}`));
  shown[name] ??= import(MODULES[name] ?? `../${name}/${name}.js`)
    .then((module) => {
      module.mount(section);
      delete missing[name];
      return module;
    })
    .catch(() => absent(name, section, how));
  const module = await shown[name];
  module?.opened?.(how);
}

// A tab whose code did not come says so. At its first failure the server is looked at at once: it is most likely away.
function absent(name, section, how) {
  const first = !missing[name];
  shown[name] = null;
  missing[name] = { how };
  if (!first) return;
  section.replaceChildren(
    el(
      "p",
      { class: "problem", role: "alert" },
      "This tab could not be loaded. It comes by itself when the server answers again.",
    ),
  );
  dispatchEvent(new Event("offline"));
}

// Whenever the server is found to be there; other tabs that are missing are asked for when they are opened.
function tryAgain() {
  const name = document.body.dataset.tab;
  if (missing[name]) show(name, missing[name].how);
}

// Leaves a mark for what should stop while its tab is not looked at.
export const isOpen = (name) => document.body.dataset.tab === name && !document.hidden;

async function until(found) {
  for (;;) {
    const one = found();
    if (one) return one;
    await new Promise((done) => setTimeout(done, 30));
  }
}

function onKey(event) {
  const names = TABS.map(([name]) => name),
    at = names.indexOf(document.body.dataset.tab);
  const to = {
    ArrowRight: (at + 1) % names.length,
    ArrowLeft: (at + names.length - 1) % names.length,
    Home: 0,
    End: names.length - 1,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  open(names[to]);
  list.children[to].focus();
}

function watch(state) {
  const tell = (kind, words) => {
    state.dataset.state = kind;
    state.querySelector(".words").textContent = words;
  };
  let next;
  const look = async () => {
    clearTimeout(next);
    try {
      const answer = await fetch(HERE + "health"),
        health = await answer.json();
      answer.ok ? tell("ready", `ready · ${health.model}`) : tell("loading", "loading the model…");
      ready = answer.ok;
      if (ready) tryAgain();
    } catch {
      ready = false;
      tell("lost", "no connection to the server");
    }
    next = setTimeout(look, ready ? 15_000 : 1000);
  };
  addEventListener("offline", look);
  addEventListener("online", look);
  look();
}
