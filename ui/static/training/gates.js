// Gates: what an update of the SAE had to pass before it was published, as a table.
import { el } from "../lib/dom.js";

export function gatesNode(told) {
  if (!told?.gates) return null;
  return [
    el(
      "h3",
      {},
      told.passed
        ? "All gates passed"
        : `${told.failed.length} of ${told.gates.length} gates failed`,
    ),
    el(
      "table",
      { class: "gates" },
      told.gates.map((g) =>
        el(
          "tr",
          {},
          el("td", { class: g.passed ? "good" : "problem" }, g.passed ? "✓ passed" : "✕ failed"),
          el("td", {}, g.says),
        ),
      ),
    ),
    told.taken_out.length
      ? el(
          "p",
          {},
          `Taken out, since few people were behind them: ${told.taken_out.length} features. ${told.taken_out
            .slice(0, 3)
            .map((t) => t.why)
            .join("; ")}.`,
        )
      : null,
  ];
}
