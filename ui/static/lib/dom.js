// DOM helpers: elements, buttons, icons, dialogs and toasts. Strings become text nodes, never
// HTML.
export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((c) => c != null && c !== false));
  return node;
}

// `data-key` identifies a control across redraws, for keepFocus.
export const button = (text, act, more = {}) =>
  el("button", { type: "button", "data-key": more.id, onclick: act, ...more }, text);
export const icon = (text, label, act, more = {}) =>
  button(text, act, { class: "icon", title: label, "aria-label": label, ...more });

// Disables a control and shows the reason; without a reason it changes nothing.
export function disableWhen(node, why) {
  if (why) Object.assign(node, { disabled: true, title: why });
  return node;
}

// SVG paths, since not every system has a font with these symbols.
const ICON_PATHS = {
  copy: "M6 6V3h8v9h-3M2 6h8v8H2z",
  up:
    "M2 8h3v6H2zM5 8l3-6c1.5 0 2 1 1.7 2.2L9.3 7H13c1 0 1.6.8 1.3 1.8l-1.2 4c-.2.8-.8 " +
    "1.2-1.6 1.2H5",
  down:
    "M2 8h3V2H2zM5 8l3 6c1.5 0 2-1 1.7-2.2L9.3 9H13c1 0 1.6-.8 1.3-1.8l-1.2-4C12.900 2.400 " +
    "12.300 2 11.500 2H5",
  link:
    "M6.5 9.500l3-3M7 4.500l1.500-1.500a3 3 0 0 1 4.500 4.500L11.500 9M9 11.500L7.500 13A3 3 " +
    "0 0 1 3 8.500L4.500 7",
  star: "M8 1.800l1.900 4 4.300.5-3.200 3 .9 4.300L8 11.400l-3.900 2.200.9-4.300-3.200-3 4.300-.5z",
  done: "M3 8.500l3.200 3.200L13 4.500",
};
export function svgIcon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"),
    path = document.createElementNS(svg.namespaceURI, "path");
  for (const [key, value] of Object.entries({
    viewBox: "0 0 16 16",
    width: 15,
    height: 15,
    fill: "none",
    stroke: "currentColor",
    "stroke-width": 1.4,
    "stroke-linejoin": "round",
    "stroke-linecap": "round",
    "aria-hidden": "true",
  }))
    svg.setAttribute(key, value);
  path.setAttribute("d", ICON_PATHS[name]);
  svg.append(path);
  return svg;
}

export function keepFocus(root, draw) {
  const key = root.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  draw();
  if (key) root.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

// Opens a modal dialog. A click on the backdrop closes it unless `dataset.stays` is set.
export function openDialog(title, ...content) {
  const dialog = el(
    "dialog",
    { class: "sheet", "aria-label": title },
    el(
      "div",
      { class: "bar" },
      el("h2", {}, title),
      icon("✕", "Close", () => dialog.close()),
    ),
    ...content,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog && !("stays" in dialog.dataset)) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// Asks for confirmation; resolves to true or false.
export function confirmDialog(question, yes) {
  return new Promise((done) => {
    const answer = (is) => () => {
      dialog.returnValue = is;
      dialog.close();
    };
    const dialog = openDialog(
      question,
      el(
        "div",
        { class: "actions" },
        button(yes, answer("yes"), { class: "primary", id: "confirm-yes" }),
        button("Cancel", answer(""), { id: "confirm-no" }),
      ),
    );
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"));
  });
}

export function copyButton(text, label = "Copy") {
  const node = button(label, async () => {
    const words = typeof text === "function" ? text() : text;
    try {
      await navigator.clipboard.writeText(words);
      node.textContent = "Copied";
    } catch {
      node.textContent = "Press Ctrl+C";
    }
    setTimeout(() => {
      node.textContent = label;
    }, 1500);
  });
  return node;
}

export function download(name, text, type = "application/json") {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Toast: a message at the bottom of the page that disappears by itself; `act` is [label,
// function].
export function toast(words, { problem = false, act } = {}) {
  document.querySelector("#toast")?.remove();
  const node = el(
    "div",
    { id: "toast", class: problem ? "toast problem" : "toast", role: problem ? "alert" : "status" },
    el("span", {}, words),
    act
      ? button(act[0], () => {
          node.remove();
          act[1]();
        })
      : null,
    icon("✕", "Dismiss", () => node.remove()),
  );
  document.body.append(node);
  setTimeout(() => node.remove(), problem || act ? 12000 : 5000);
  return node;
}
