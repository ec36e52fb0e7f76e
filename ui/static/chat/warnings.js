// What the API warns of in one reply, in few words: what matters first, and what is so of many features said once. Knows no talk.
import { el } from "../lib/dom.js";

// In order of weight. What was changed or goes too far is said before it is unfolded.
const ORDER = [
  "cut",
  "guards",
  "above_sweet_spot",
  "retired",
  "overlap",
  "not_measured",
  "no_effect",
];
const LOUD = new Set(ORDER.slice(0, 3));
const MANY = {
  above_sweet_spot: (n) =>
    `${n === 1 ? "1 feature is" : `${n} features are`} beyond what stays coherent`,
  retired: (n) =>
    `${n} features are not in this revision any more; what was saved with the persona steers`,
  overlap: (n) => `${n} pairs of features overlap`,
  not_measured: (n) =>
    `the doses of ${n} features were not measured; 1.0 is half of a typical length`,
  no_effect: (n) =>
    `no dose of ${n} features, each by itself, had an effect that a random direction does not have`,
};

const weight = ({ code }) => {
  const at = ORDER.indexOf(code);
  return at < 0 ? ORDER.length : at;
};

// One line that folds out; nothing where there is no warning.
export function warnedNode(warnings, applied = []) {
  if (!warnings.length) return null;
  const groups = groupsOf(warnings),
    { code, all } = groups[0],
    loud = LOUD.has(code),
    says = MANY[code]?.(all.length) ?? groups[0].says;
  const count = warnings.length === 1 ? "1 note" : `${warnings.length} notes`,
    words = loud ? `⚠ ${says} · ${count}` : count;
  return el(
    "details",
    { class: "warned" },
    el("summary", { class: loud ? "chip warn" : "chip" }, words),
    el(
      "ul",
      {},
      groups.map((group) => groupNode(group, applied)),
    ),
  );
}

function groupsOf(warnings) {
  const found = new Map();
  for (const w of [...warnings].sort((a, b) => weight(a) - weight(b)))
    found.set(w.code, [...(found.get(w.code) || []), w]);
  return [...found].map(([code, all]) => ({
    code,
    all,
    says:
      all.length > 1 && MANY[code] ? MANY[code](all.length) : all.map((w) => w.message).join("; "),
  }));
}

// Where the sentence is the same for all, only their names follow.
function groupNode({ all, says }, applied) {
  if (all.length === 1) return el("li", {}, says);
  const labels = new Map(applied.map((a) => [a.id, a.label || a.id]));
  const parts = all.map(({ feature, message }) => {
    const name = labels.get(feature) ?? feature;
    return message.startsWith(`${name}: `)
      ? [name, message.slice(name.length)]
      : [message, message];
  });
  const same = new Set(parts.map(([, rest]) => rest)).size === 1;
  return el(
    "li",
    {},
    el(
      "details",
      {},
      el("summary", {}, says),
      el(
        "ul",
        {},
        parts.map(([name], i) => el("li", {}, same ? name : all[i].message)),
      ),
    ),
  );
}
