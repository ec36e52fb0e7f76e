// What is known of a feature, in words and numbers. Knows no elements.
import { tidy } from "../panel/dose.js";

const SOURCES = {
  none: "no label",
  auto: "from examples",
  contrast: "from words",
  fit: "from a fit",
  hand: "by hand",
};
export const KINDS = {
  dead: "never fires: pushing along it is a random push",
  dense: "fires on more than a fifth of all tokens: it rarely means one thing",
  "input-only": "reads, but hardly says anything: pushing along it mostly fails",
};
const LIMITS = {
  kl: "a larger push changes what is said too much",
  repetition: "a larger push repeats itself",
  length: "a larger push was not tried",
};

export const nameOf = (feature) => feature.label || feature.id;

export function share(feature) {
  const percent = 100 * feature.density;
  if (!percent) return feature.kind?.includes("dead") ? "never" : "–";
  return percent < 0.01
    ? "<0.01 %"
    : `${percent.toFixed(percent < 1 ? 2 : percent < 10 ? 1 : 0)} %`;
}

export function sourceWords(feature) {
  const [kind, by] = [
    feature.label_source.split(":")[0],
    feature.label_source.slice(feature.label_source.indexOf(":") + 1),
  ];
  if (!feature.label) return SOURCES.none;
  if (kind === "llm") return `by ${by}`;
  return kind === "neuronpedia" ? "from Neuronpedia" : SOURCES[kind] || feature.label_source;
}

export function doseWords(feature) {
  if (feature.sweet_spot) return `sweet spot ${span(feature.sweet_spot)}`;
  if (feature.calibration && !feature.calibration.works) return "no effect found";
  return feature.dose == null ? "not measured" : "measured";
}

export const span = ({ low, high }) => `${tidy(low)}–${tidy(high)}`.replaceAll("-", "−");

// How the sweet spot was measured: never more than the data says.
export function measuredWords({ sweet_spot: spot, calibration: told, dose }) {
  if (dose == null)
    return "Its dose is not measured. Until it is, 1.0 is half of the stream's usual length.";
  const how = [
    spot?.n && `${spot.n} prompts`,
    spot?.date,
    spot?.method,
    told?.revision && `revision ${told.revision}`,
  ]
    .filter(Boolean)
    .join(", ");
  if (!told)
    return spot
      ? `Sweet spot ${span(spot)}${how ? ` (${how})` : ""}.`
      : "1.0 is the most that stayed coherent.";
  const worth = told.works
    ? `The effect is ${told.z.toFixed(1)} standard deviations above random pushes.`
    : "No dose does anything that a random push of the same size does not.";
  const negative = told.negative
    ? ` Below zero: −${tidy(Math.abs(told.negative.high))} to −${tidy(Math.abs(told.negative.low))}.`
    : "";
  return `${spot ? `Sweet spot ${span(spot)}.${negative} ` : negative}${worth} Dose 1.0 is the limit because ${LIMITS[told.limited_by] || told.limited_by}.${how ? ` Measured: ${how}.` : ""}`;
}

// The measured pushes as [dose, effect, surprise], in order of dose.
export function curveOf({ calibration: told }) {
  if (!told?.points?.length || told.knots.length < 2) return [];
  return told.points
    .map((p) => [along(p.raw, told.knots), p.effect, p.surprise])
    .concat([[0, 0, 0]])
    .sort((a, b) => a[0] - b[0]);
}

// The dose of a raw strength: between knots in proportion, beyond them along the line through 0.
export function along(raw, knots) {
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
