// The map's colours, from the page's own, as numbers that pixels take. Knows CSS and no features.
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const pen = canvas.getContext("2d", { willReadFrequently: true });

function number(css) {
  pen.clearRect(0, 0, 1, 1);
  pen.fillStyle = css;
  pen.fillRect(0, 0, 1, 1);
  return new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0];
}

const GOLDEN = 137.508,
  MANY = 48,
  STEPS = 8;

export function inksOf(node) {
  const style = getComputedStyle(node),
    of = (name) => style.getPropertyValue(name).trim(),
    dark = document.body.classList.contains("dark");
  const ink = { text: of("--text"), card: of("--card"), accent: of("--accent") };
  const mixed = (part) => number(`color-mix(in srgb, ${ink.accent} ${part}%, ${of("--rail")})`);
  return {
    ink: { ...ink, ground: number(ink.card), faint: number(of("--rail")) },
    unknown: number(of("--muted")),
    // Neighbouring numbers are far apart in hue; lightness and strength are alike, so that none of them shouts.
    clusters: Uint32Array.from({ length: MANY }, (_, i) =>
      number(`oklch(${dark ? 0.74 : 0.6} 0.12 ${(35 + i * GOLDEN) % 360})`),
    ),
    ramp: Uint32Array.from({ length: STEPS }, (_, i) => mixed(15 + (85 * i) / (STEPS - 1))),
  };
}

// Code 0 is what is not known yet.
export function byCluster(cluster, { unknown, clusters }) {
  return {
    codes: Uint8Array.from(cluster, (c) => (c < 0 ? 0 : 1 + (c % clusters.length))),
    palette: Uint32Array.of(unknown, ...clusters),
  };
}

// By the logarithm, in equal steps from the least to the most.
export function byAmount(values, known, { unknown, ramp }) {
  let low = Infinity,
    high = -Infinity;
  for (let i = 0; i < known; i++)
    if (values[i] > 0) {
      low = Math.min(low, values[i]);
      high = Math.max(high, values[i]);
    }
  const span = Math.log(high / low) || 1;
  const code = (v, i) =>
    i >= known
      ? 0
      : v > 0
        ? 1 + Math.min(ramp.length - 1, Math.floor((Math.log(v / low) / span) * ramp.length))
        : 1;
  return {
    codes: Uint8Array.from(values, code),
    palette: Uint32Array.of(unknown, ...ramp),
    low,
    high,
  };
}
