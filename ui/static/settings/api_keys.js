// API keys: the user's own key and, for admins, all keys. A secret is shown once and stored
// nowhere.
import { api, holdSignInRedirect, PAGE_URL } from "../lib/api.js";
import { button, confirmDialog, copyButton, el, openDialog, toast } from "../lib/dom.js";
import { clearAllTabs, moveToSignedInUser } from "../lib/storage.js";

const ROLES = [
  ["viewer", "A viewer chats with personas, looks at features and analyses text."],
  ["user", "A user also steers by up to eight measured features."],
  ["creator", "A creator also creates personas, and steers by any feature that has a label."],
  ["researcher", "A researcher steers by any feature and by their own vectors."],
  ["admin", "An admin also creates keys, runs jobs and publishes revisions."],
];

// The unsaved form of a new key; it survives a redraw of the card.
let draft = {};

// `keys` is null for users who may not list them; `again` reloads the card.
export function keysCard({ who, keys, on, again: reload }) {
  return el(
    "section",
    { class: "card stack", id: "keys", "aria-label": "Keys" },
    el("h3", {}, "Keys"),
    ...(on
      ? ownKeyNodes(who)
      : [
          el(
            "p",
            { class: "muted" },
            "This server has no API keys, so nobody needs one. After the first one is " +
              "created everybody does, and you sign in with it.",
          ),
        ]),
    ...(keys ? keyListNodes(keys, !on, reload) : []),
  );
}

function ownKeyNodes(who) {
  const limits = Object.entries({
    "requests per minute": who.limits.requests,
    "tokens per minute": who.limits.tokens,
    "replies at a time": who.limits.concurrent,
    "different steering settings per hour": who.limits.specs,
  }).filter(([, max]) => max !== null);
  return [
    el(
      "p",
      {},
      "You are ",
      el("strong", {}, who.owner),
      who.tenant ? ` of ${who.tenant}` : "",
      `, with the role ${who.role}.`,
    ),
    limits.length
      ? el(
          "p",
          { class: "muted" },
          "Your key has " +
            limits.map(([what, max]) => `${max.toLocaleString("en")} ${what}`).join(", ") +
            ".",
        )
      : null,
    who.default_preset
      ? el("p", { class: "muted" }, `Without a choice of yours, ${who.default_preset} steers.`)
      : null,
    el(
      "form",
      { method: "post", action: `${PAGE_URL}sign-out`, onsubmit: clearAllTabs },
      button("Sign out", null, { id: "sign-out", type: "submit" }),
    ),
  ].filter(Boolean);
}

// `first`: after the first key, everybody needs one.
function keyListNodes(keys, first, reload) {
  return [
    keys.length
      ? el(
          "ul",
          { class: "keys", "aria-label": "All keys" },
          keys.map((k) => keyNode(k, reload)),
        )
      : el("p", { class: "muted" }, "There are no keys yet."),
    newKeyForm(first, reload),
  ];
}

// Shows a secret in a dialog; resolves when the user closes it.
function showSecret(secret, words) {
  return new Promise((done) => {
    const dialog = openDialog(
      "The new key",
      el(
        "p",
        {},
        el("strong", {}, "This is shown once. "),
        "Copy it now; it cannot be shown again.",
      ),
      el(
        "div",
        { class: "bar" },
        el("code", { class: "grow secret", id: "new-secret" }, secret),
        copyButton(secret),
      ),
      words ? el("p", { id: "next-step" }, words) : null,
      el(
        "div",
        { class: "actions" },
        button("Done", () => dialog.close(), { id: "secret-done", class: "primary" }),
      ),
    );
    dialog.dataset.stays = "";
    dialog.addEventListener("close", done);
  });
}

function keyNode(key, reload) {
  const until = key.expires
    ? `until ${new Date(key.expires * 1000).toISOString().slice(0, 10)}`
    : "no expiry";
  return el(
    "li",
    { class: "bar" },
    el(
      "span",
      { class: "grow" },
      el("strong", {}, key.name),
      " ",
      el("code", {}, `${key.prefix}…`),
      el(
        "span",
        { class: "muted" },
        ` ${key.role}${key.tenant ? ` of ${key.tenant}` : ""}, ${until}`,
      ),
    ),
    button("Delete", () => deleteKey(key, reload), {
      "aria-label": `Delete the key ${key.name}`,
      "data-key": `delete ${key.id}`,
    }),
  );
}

async function deleteKey(key, reload) {
  if (
    !(await confirmDialog(
      `Delete the key ${key.name}? Requests with it are refused at once.`,
      "Delete",
    ))
  )
    return;
  try {
    await api(`keys/${key.id}`, "DELETE");
    toast("Deleted.");
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await reload();
}

function newKeyForm(first, reload) {
  const name = el("input", {
    type: "text",
    id: "key-name",
    value: draft["key-name"],
    required: true,
    pattern: "[a-z0-9][a-z0-9._\\-]{0,63}",
    title: "Lower-case letters, digits, dots and dashes",
    autocomplete: "off",
    "data-key": "key-name",
  });
  const tenant = el("input", {
    type: "text",
    id: "key-tenant",
    value: draft["key-tenant"],
    pattern: "[a-z0-9][a-z0-9._\\-]{0,63}",
    autocomplete: "off",
    "data-key": "key-tenant",
  });
  const role = el(
    "select",
    { id: "key-role", "data-key": "key-role", "aria-describedby": "key-role-text" },
    (first ? ROLES.slice(-1) : ROLES).map(([value]) =>
      el(
        "option",
        { value, selected: value === (first ? "admin" : draft["key-role"] || "user") },
        value,
      ),
    ),
  );
  const roleText = el("p", { class: "muted", id: "key-role-text", "aria-live": "polite" }),
    showRole = () => {
      roleText.textContent =
        `${ROLES.find(([value]) => value === role.value)[1]}` +
        `${first ? " The first key is an admin's, since only admins can create more." : ""}`;
    };
  role.addEventListener("change", showRole);
  showRole();
  const days = el("input", {
    type: "number",
    id: "key-days",
    value: draft["key-days"],
    min: "1",
    max: "36500",
    placeholder: "no expiry",
    "data-key": "key-days",
  });
  return el(
    "form",
    {
      class: "stack",
      id: "new-key",
      oninput: ({ target }) => {
        draft[target.id] = target.value;
      },
      onsubmit: (event) => {
        event.preventDefault();
        createKey(
          {
            name: name.value,
            role: role.value,
            ...(tenant.value ? { tenant: tenant.value } : {}),
            ...(days.value ? { days: Number(days.value) } : {}),
          },
          first,
          reload,
        );
      },
    },
    el(
      "div",
      { class: "fields" },
      labelled("Name", name),
      labelled("Role", role),
      labelled("Tenant", tenant),
      labelled("Days", days),
    ),
    roleText,
    el("div", { class: "bar" }, button("Create key", null, { id: "create-key", type: "submit" })),
  );
}

const labelled = (words, input) => el("label", { class: "field" }, words, input);

// After the first key every request needs one, so the page signs in with it at once.
function createKey(limits, first, reload) {
  return holdSignInRedirect(async () => {
    const { secret } = await api("keys", "POST", limits);
    draft = {};
    const inside = first && (await signInWith(secret));
    await showSecret(secret, first ? nextStepText(inside) : "");
    if (inside) await moveToSignedInUser();
  }).then(reload, (error) => toast(error.message, { problem: true }));
}

const nextStepText = (is) =>
  is
    ? "This browser is now signed in with it. Everybody else needs a key from now on."
    : "Everybody needs a key from now on. This browser could not be signed in: sign in with " +
      "this one.";

// Posts the sign-in form; a redirect means success.
const signInWith = (key) =>
  fetch(`${PAGE_URL}sign-in`, {
    method: "POST",
    body: new URLSearchParams({ key }),
    redirect: "manual",
  }).then(
    (answer) => answer.type === "opaqueredirect",
    () => false,
  );
