// Doses: numbers from −2 to +2 and the words for them. Knows no elements.
export const LOW = -2,
  HIGH = 2,
  STEP = 0.05,
  SAFE = 1;

export const clamp = (x) => Math.min(HIGH, Math.max(LOW, x));
export const tidy = (x) => +(+x).toFixed(2) || 0;
export const stepped = (x) => tidy(Math.round(x / STEP) * STEP);
export const snapped = (x) => (Math.abs(x) <= STEP + 1e-9 ? 0 : x);
export const percent = (x) => ((clamp(x) - LOW) / (HIGH - LOW)) * 100;
export const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;
export const inSpot = (row) =>
  row.spot && row.strength >= row.spot.low && row.strength <= row.spot.high;
export const inDanger = (row) => row.mode === "add" && Math.abs(row.strength) > SAFE + 1e-9;

export function spotWords(row) {
  if (row.mode === "ablate") return "switched off";
  if (row.mode === "scale") return "what it does is multiplied";
  if (row.spot)
    return `sweet spot ${tidy(row.spot.low)}–${tidy(row.spot.high)}${row.spot.n ? `, ${row.spot.n} prompts` : ""}${row.spot.date ? `, ${row.spot.date}` : ""}`;
  if (row.works === false) return "measured: no dose does anything";
  return row.measured ? "1.0 is the most that stayed coherent" : "not measured";
}

export function placeWords(row) {
  if (inDanger(row)) return "beyond 1.0, often breaks";
  if (inSpot(row)) return "inside the sweet spot";
  return row.strength === 0 ? "off" : "";
}

export const spoken = (row) =>
  `dose ${tidy(row.strength)}${placeWords(row) ? ", " + placeWords(row) : ""}`;
