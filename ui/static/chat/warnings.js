// Warnings: the API's warnings for one reply, the most important first, repeated ones summarized.
import { el } from "../lib/dom.js";

// By importance. The first four are shown in the summary line.
const ORDER = [
  "turns_left_out",
  "cut",
  "guards",
  "above_sweet_spot",
  "retired",
  "overlap",
  "not_measured",
  "no_effect",
];
const PROMINENT = new Set(ORDER.slice(0, 4));
const SUMMARIES = {
  above_sweet_spot: (n) =>
    `${n === 1 ? "1 feature is" : `${n} features are`} beyond what stays coherent`,
  retired: (n) =>
    `${n} features are no longer in this revision; the directions saved with the persona are used`,
  overlap: (n) => `${n} pairs of features overlap`,
  not_measured: (n) => `the doses of ${n} features are not measured; 1.0 is half of a typical norm`,
  no_effect: (n) =>
    `no dose of ${n} features, each by itself, has a larger effect than a random direction`,
};

const weight = ({ code }) => {
  const at = ORDER.indexOf(code);
  return at < 0 ? ORDER.length : at;
};

// A <details> element; null without warnings.
export function warningsNode(warnings, applied = []) {
  if (!warnings.length) return null;
  const groups = groupByCode(warnings),
    { code, all } = groups[0],
    prominent = PROMINENT.has(code),
    says = SUMMARIES[code]?.(all.length) ?? groups[0].says;
  const count = warnings.length === 1 ? "1 note" : `${warnings.length} notes`,
    words = prominent ? `⚠ ${says} · ${count}` : count;
  return el(
    "details",
    { class: "warnings" },
    el("summary", { class: prominent ? "chip warn" : "chip" }, words),
    el(
      "ul",
      {},
      groups.map((group) => groupNode(group, applied)),
    ),
  );
}

function groupByCode(warnings) {
  const found = new Map();
  for (const w of [...warnings].sort((a, b) => weight(a) - weight(b)))
    found.set(w.code, [...(found.get(w.code) || []), w]);
  return [...found].map(([code, all]) => ({
    code,
    all,
    says:
      all.length > 1 && SUMMARIES[code]
        ? SUMMARIES[code](all.length)
        : all.map((w) => w.message).join("; "),
  }));
}

// Lists only the features' names where all messages are the same.
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
