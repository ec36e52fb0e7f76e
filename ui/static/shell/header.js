// Header: the model's name, the server's state, and the tabs. A tab's module loads when it is
// first opened.
import { PAGE_URL } from "../lib/api.js";
import { el } from "../lib/dom.js";
import { readFromBrowser } from "../lib/storage.js";

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
const loadedTabs = {},
  failedTabs = {};
let tabList,
  ready = false;

export function mount(element) {
  tabList = element.querySelector(".tabs");
  tabList.replaceChildren(
    ...TABS.map(([name, label]) =>
      el(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${name}`,
          "aria-controls": `section-${name}`,
          onclick: () => openTab(name),
        },
        label,
      ),
    ),
  );
  tabList.addEventListener("keydown", onKey);
  addEventListener("popstate", () => showTab(tabInUrl()));
  showTab(tabInUrl());
  watchHealth(element.querySelector("#state"));
  if (readFromBrowser("theme", "")) applyTheme();
}

// Light or dark: the user's choice, or the system's setting.
export function applyTheme() {
  const choice = readFromBrowser("theme", "");
  document.body.classList.toggle(
    "dark",
    choice ? choice === "dark" : matchMedia("(prefers-color-scheme: dark)").matches,
  );
}

const tabInUrl = () => {
  const name = new URLSearchParams(location.search).get("tab");
  return TABS.some(([n]) => n === name) ? name : "chat";
};

// Opens a tab and passes `how` to it, such as a feature to show.
export function openTab(name, options) {
  const at = new URL(location.href);
  name === "chat" ? at.searchParams.delete("tab") : at.searchParams.set("tab", name);
  if (at.href !== location.href) history.pushState(null, "", at);
  return showTab(name, options);
}

async function showTab(name, options) {
  document.body.dataset.tab = name;
  for (const tab of tabList.children) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    if (on) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  for (const section of document.querySelectorAll("[role=tabpanel]"))
    section.hidden = section.id !== `section-${name}`;
  if (name === "chat") return;
  const section = await waitFor(() => document.querySelector(`#section-${name}`));
  loadedTabs[name] ??= import(MODULES[name] ?? `../${name}/${name}.js`)
    .then((module) => {
      module.mount(section);
      delete failedTabs[name];
      return module;
    })
    .catch(() => showLoadFailure(name, section, options));
  const module = await loadedTabs[name];
  module?.opened?.(options);
}

// Shows that a tab's module could not be loaded. The first failure checks the server's health at
// once.
function showLoadFailure(name, section, options) {
  const first = !failedTabs[name];
  loadedTabs[name] = null;
  failedTabs[name] = { how: options };
  if (!first) return;
  section.replaceChildren(
    el(
      "p",
      { class: "problem", role: "alert" },
      "This tab could not be loaded. It loads by itself when the server is reachable again.",
    ),
  );
  dispatchEvent(new Event("offline"));
}

// Reloads the open tab if it failed, when the server is reachable again; other tabs retry when
// they are opened.
function retryTab() {
  const name = document.body.dataset.tab;
  if (failedTabs[name]) showTab(name, failedTabs[name].how);
}

// Whether a tab is visible, for work that should pause otherwise.
export const isOpen = (name) => document.body.dataset.tab === name && !document.hidden;

async function waitFor(query) {
  for (;;) {
    const one = query();
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
  openTab(names[to]);
  tabList.children[to].focus();
}

function watchHealth(state) {
  const setState = (kind, text) => {
    state.dataset.state = kind;
    state.querySelector(".words").textContent = text;
  };
  let next;
  const checkHealth = async () => {
    clearTimeout(next);
    try {
      const answer = await fetch(PAGE_URL + "health"),
        health = await answer.json();
      answer.ok
        ? setState("ready", `ready · ${health.model}`)
        : setState("loading", "loading the model…");
      ready = answer.ok;
      if (ready) retryTab();
    } catch {
      ready = false;
      setState("lost", "no connection to the server");
    }
    next = setTimeout(checkHealth, ready ? 15_000 : 1000);
  };
  addEventListener("offline", checkHealth);
  addEventListener("online", checkHealth);
  checkHealth();
}
