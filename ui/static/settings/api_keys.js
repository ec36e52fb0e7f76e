// Keys: who one is here, and, for whoever runs the server, who else may use it. A secret is shown once and kept nowhere.
import { api, HERE, stayingHere } from "../lib/api.js";
import { button, confirmed, copyButton, el, openDialog, toast } from "../lib/dom.js";
import { leave, named } from "../lib/storage.js";

const ROLES = [
  ["viewer", "A viewer chats with personas, looks at features and analyses text."],
  ["user", "A user also steers by up to eight measured features."],
  ["creator", "A creator also makes personas, and steers by any feature that has a name."],
  ["researcher", "A researcher steers by anything, vectors of their own too."],
  ["admin", "An admin also makes keys, runs jobs and publishes revisions."],
];

// What is typed for a new key outlives that the card is drawn anew, which the server's answer does at any moment.
let draft = {};

// `keys` is null for those who may not see them; `again` asks the server anew and draws.
export function keysCard({ who, keys, on, again }) {
  return el(
    "section",
    { class: "card stack", id: "keys", "aria-label": "Keys" },
    el("h3", {}, "Keys"),
    ...(on
      ? mine(who)
      : [
          el(
            "p",
            { class: "muted" },
            "Nobody needs a key here. Once there is one, everybody does, and you sign in with it.",
          ),
        ]),
    ...(keys ? manage(keys, !on, again) : []),
  );
}

function mine(who) {
  const about = Object.entries({
    "requests a minute": who.limits.requests,
    "tokens a minute": who.limits.tokens,
    "replies at a time": who.limits.concurrent,
    "different steerings an hour": who.limits.specs,
  }).filter(([, most]) => most !== null);
  return [
    el(
      "p",
      {},
      "You are ",
      el("strong", {}, who.owner),
      who.tenant ? ` of ${who.tenant}` : "",
      `, with the role ${who.role}.`,
    ),
    about.length
      ? el(
          "p",
          { class: "muted" },
          `Your key has ${about.map(([what, most]) => `${most.toLocaleString("en")} ${what}`).join(", ")}.`,
        )
      : null,
    who.default_preset
      ? el("p", { class: "muted" }, `Where you choose nothing, ${who.default_preset} steers.`)
      : null,
    el(
      "form",
      { method: "post", action: `${HERE}sign-out`, onsubmit: leave },
      button("Sign out", null, { id: "sign-out", type: "submit" }),
    ),
  ].filter(Boolean);
}

// `first`: whoever makes a key now shuts everybody out who has none.
function manage(keys, first, again) {
  return [
    keys.length
      ? el(
          "ul",
          { class: "keys", "aria-label": "All keys" },
          keys.map((k) => row(k, again)),
        )
      : el("p", { class: "muted" }, "There are no keys yet."),
    form(first, again),
  ];
}

// Shows a secret until somebody closes it themselves; resolves then.
function told(secret, words) {
  return new Promise((done) => {
    const dialog = openDialog(
      "The new key",
      el(
        "p",
        {},
        el("strong", {}, "This is shown once. "),
        "Copy it now; nobody can find it out again.",
      ),
      el(
        "div",
        { class: "bar" },
        el("code", { class: "grow secret", id: "new-secret" }, secret),
        copyButton(secret),
      ),
      words ? el("p", { id: "secret-next" }, words) : null,
      el(
        "div",
        { class: "acts" },
        button("Done", () => dialog.close(), { id: "secret-done", class: "primary" }),
      ),
    );
    dialog.dataset.stays = "";
    dialog.addEventListener("close", done);
  });
}

function row(key, again) {
  const until = key.expires
    ? `until ${new Date(key.expires * 1000).toISOString().slice(0, 10)}`
    : "for good";
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
    button("Delete", () => remove(key, again), {
      "aria-label": `Delete the key ${key.name}`,
      "data-key": `delete ${key.id}`,
    }),
  );
}

async function remove(key, again) {
  if (
    !(await confirmed(`Delete the key ${key.name}? Whoever uses it is shut out at once.`, "Delete"))
  )
    return;
  try {
    await api(`keys/${key.id}`, "DELETE");
    toast("Deleted.");
  } catch (error) {
    toast(error.message, { problem: true });
  }
  await again();
}

function form(first, again) {
  const name = el("input", {
    type: "text",
    id: "key-name",
    value: draft["key-name"],
    required: true,
    pattern: "[a-z0-9][a-z0-9._\\-]{0,63}",
    title: "Small letters, digits, dots and dashes",
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
    { id: "key-role", "data-key": "key-role", "aria-describedby": "key-may" },
    (first ? ROLES.slice(-1) : ROLES).map(([value]) =>
      el(
        "option",
        { value, selected: value === (first ? "admin" : draft["key-role"] || "user") },
        value,
      ),
    ),
  );
  const may = el("p", { class: "muted", id: "key-may", "aria-live": "polite" }),
    tell = () => {
      may.textContent = `${ROLES.find(([value]) => value === role.value)[1]}${first ? " The first key is an admin's, or nobody could make another." : ""}`;
    };
  role.addEventListener("change", tell);
  tell();
  const days = el("input", {
    type: "number",
    id: "key-days",
    value: draft["key-days"],
    min: "1",
    max: "36500",
    placeholder: "for good",
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
        make(
          {
            name: name.value,
            role: role.value,
            ...(tenant.value ? { tenant: tenant.value } : {}),
            ...(days.value ? { days: Number(days.value) } : {}),
          },
          first,
          again,
        );
      },
    },
    el(
      "div",
      { class: "fields" },
      field("Name", name),
      field("Role", role),
      field("Tenant", tenant),
      field("Days", days),
    ),
    may,
    el("div", { class: "bar" }, button("Make a key", null, { id: "make-key", type: "submit" })),
  );
}

const field = (words, input) => el("label", { class: "field" }, words, input);

// From the first key on whatever is asked needs one: the page signs in with it before it asks anything else.
function make(about, first, again) {
  return stayingHere(async () => {
    const { secret } = await api("keys", "POST", about);
    draft = {};
    const inside = first && (await signedIn(secret));
    await told(secret, first ? nextWords(inside) : "");
    if (inside) await named();
  }).then(again, (error) => toast(error.message, { problem: true }));
}

const nextWords = (is) =>
  is
    ? "This browser is signed in with it already. Whoever else comes needs a key from now on."
    : "Everybody needs a key from now on. This browser could not be signed in: do it with this one.";

// As the form of the sign-in does it: who is let in is led on, who is not gets the form again.
const signedIn = (key) =>
  fetch(`${HERE}sign-in`, {
    method: "POST",
    body: new URLSearchParams({ key }),
    redirect: "manual",
  }).then(
    (answer) => answer.type === "opaqueredirect",
    () => false,
  );
