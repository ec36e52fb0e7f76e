// Feature descriptions: label source, density, dose and calibration as text.
import { roundDose } from "../panel/dose.js";

const SOURCES = {
  none: "no label",
  auto: "from examples",
  contrast: "from words",
  fit: "from a fit",
  read: "by a reader",
  hand: "by hand",
};
export const KINDS = {
  dead: "never active: steering along it is like steering along a random direction",
  dense: "active on more than a fifth of all tokens: it rarely means one thing",
  "input-only": "did not show in a few short replies under a push: steering along it mostly fails",
};
const LIMITS = {
  fluency: "with a larger dose fewer than nine in ten replies read as fluent",
  kl: "a larger dose changes the output too much",
  repetition: "a larger dose makes the reply repeat itself",
  length: "no larger dose was tested",
};

export const featureName = (feature) => feature.label || feature.id;

export function formatDensity(feature) {
  const percent = 100 * feature.density;
  if (!percent) return feature.kind?.includes("dead") ? "never" : "–";
  return percent < 0.01
    ? "<0.01 %"
    : `${percent.toFixed(percent < 1 ? 2 : percent < 10 ? 1 : 0)} %`;
}

export function labelSourceText(feature) {
  const [kind, by] = [
    feature.label_source.split(":")[0],
    feature.label_source.slice(feature.label_source.indexOf(":") + 1),
  ];
  if (!feature.label) return SOURCES.none;
  if (kind === "llm") return `by ${by}`;
  return kind === "neuronpedia" ? "from Neuronpedia" : SOURCES[kind] || feature.label_source;
}

export function doseText(feature) {
  if (feature.sweet_spot) {
    const ready = feature.calibration?.works ? "slider-ready: " : "sweet spot ";
    return ready + formatRange(feature.sweet_spot);
  }
  if (feature.calibration && !feature.calibration.works) return "no effect found";
  return feature.dose == null ? "not measured" : "measured";
}

export const formatRange = ({ low, high }) =>
  `${roundDose(low)}–${roundDose(high)}`.replaceAll("-", "−");

// How the sweet spot was measured; states only what the data contains.
export function measurementText({ sweet_spot: spot, calibration: calibration, dose }) {
  if (dose == null)
    return (
      "The dose is not measured. Until it is, 1.0 is half of the typical norm of the " +
      "residual stream."
    );
  const details = [
    spot?.n && `${spot.n} ${calibration?.method === "fluency" ? "replies" : "prompts"}`,
    spot?.date,
    spot?.method !== "fluency" && spot?.method,
    calibration?.revision && `revision ${calibration.revision}`,
  ]
    .filter(Boolean)
    .join(", ");
  if (!calibration)
    return spot
      ? `Sweet spot ${formatRange(spot)}${details ? ` (${details})` : ""}.`
      : "1.0 is the largest coherent dose.";
  const worth = calibration.works
    ? `The effect is ${calibration.z.toFixed(1)} standard deviations above random directions.`
    : "The effect at dose 1.0 is none that random directions do not have.";
  const negative = calibration.negative
    ? ` Below zero: −${roundDose(Math.abs(calibration.negative.high))} to ` +
      `−${roundDose(Math.abs(calibration.negative.low))}.`
    : "";
  return (
    `${spot ? `Sweet spot ${formatRange(spot)}.${negative} ` : negative}${worth} Dose 1.0 is ` +
    "the limit because " +
    `${LIMITS[calibration.limited_by] || calibration.limited_by}.` +
    (details ? ` Measured: ${details}.` : "")
  );
}

// Unit of the effect: share of the replies that show the feature, or nats in older measurements.
export const effectUnit = ({ calibration }) =>
  calibration?.method === "fluency" ? "of the replies" : "nats";

// The measured points as [dose, effect, surprise], sorted by dose.
export function doseCurve({ calibration: calibration }) {
  if (!calibration?.points?.length || calibration.knots.length < 2) return [];
  return calibration.points
    .map((p) => [doseOfRaw(p.raw, calibration.knots), p.effect, p.surprise])
    .concat([[0, 0, 0]])
    .sort((a, b) => a[0] - b[0]);
}

// Converts a raw strength to a dose: linear between knots, and along the line through 0 beyond
// them.
export function doseOfRaw(raw, knots) {
  const [first, last] = [knots[0], knots.at(-1)];
  if (raw < first[1] && first[1] < 0) return (first[0] * raw) / first[1];
  if (raw > last[1] && last[1] > 0) return (last[0] * raw) / last[1];
  const i = Math.max(
      1,
      knots.findIndex((k) => k[1] >= raw),
    ),
    [a, b] = [knots[i - 1], knots[i]];
  return a[0] + ((b[0] - a[0]) * (raw - a[1])) / (b[1] - a[1] || 1);
}
