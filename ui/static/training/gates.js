// Gates: what an update of the SAE had to pass before it was published, as a table.
import { el } from "../lib/dom.js";

export function gatesNode(report) {
  if (!report?.gates) return null;
  return [
    el(
      "h3",
      {},
      report.passed
        ? "All gates passed"
        : `${report.failed.length} of ${report.gates.length} gates failed`,
    ),
    el(
      "table",
      { class: "gates" },
      report.gates.map((g) =>
        el(
          "tr",
          {},
          el("td", { class: g.passed ? "good" : "problem" }, g.passed ? "✓ passed" : "✕ failed"),
          el("td", {}, g.says),
        ),
      ),
    ),
    report.taken_out.length
      ? el(
          "p",
          {},
          `Removed, since too few users contributed to them: ${report.taken_out.length} ` +
            "features. " +
            `${report.taken_out
              .slice(0, 3)
              .map((t) => t.why)
              .join("; ")}.`,
        )
      : null,
  ];
}
