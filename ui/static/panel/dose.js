// Doses: numbers from −2 to +2 and the texts for them.
export const MIN_DOSE = -2,
  MAX_DOSE = 2,
  DOSE_STEP = 0.05,
  SAFE_DOSE = 1;

export const clampDose = (x) => Math.min(MAX_DOSE, Math.max(MIN_DOSE, x));
export const roundDose = (x) => +(+x).toFixed(2) || 0;
export const roundToStep = (x) => roundDose(Math.round(x / DOSE_STEP) * DOSE_STEP);
export const snapToZero = (x) => (Math.abs(x) <= DOSE_STEP + 1e-9 ? 0 : x);
export const trackPercent = (x) => ((clampDose(x) - MIN_DOSE) / (MAX_DOSE - MIN_DOSE)) * 100;
export const formatSigned = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;
export const isInSweetSpot = (row) =>
  row.spot && row.strength >= row.spot.low && row.strength <= row.spot.high;
export const isInDanger = (row) => row.mode === "add" && Math.abs(row.strength) > SAFE_DOSE + 1e-9;

export function sweetSpotText(row) {
  if (row.mode === "ablate") return "switched off";
  if (row.mode === "scale") return "its activation is multiplied";
  if (row.spot)
    return (
      "sweet spot " +
      `${roundDose(row.spot.low)}–${roundDose(row.spot.high)}` +
      (row.spot.n ? `, ${row.spot.n} prompts` : "") +
      (row.spot.date ? `, ${row.spot.date}` : "")
    );
  if (row.works === false) return "measured: no dose has an effect";
  return row.measured ? "1.0 is the largest coherent dose" : "not measured";
}

export function positionText(row) {
  if (isInDanger(row)) return "beyond 1.0, often breaks";
  if (isInSweetSpot(row)) return "inside the sweet spot";
  return row.strength === 0 ? "off" : "";
}

export const ariaValueText = (row) =>
  `dose ${roundDose(row.strength)}${positionText(row) ? ", " + positionText(row) : ""}`;
