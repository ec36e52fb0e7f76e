// Map colours: the page's CSS colours as 32-bit pixel values.
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const context = canvas.getContext("2d", { willReadFrequently: true });

function pixelOf(css) {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = css;
  context.fillRect(0, 0, 1, 1);
  return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0];
}

const GOLDEN_ANGLE = 137.508,
  CLUSTER_COLOURS = 48,
  RAMP_STEPS = 8;

export function themeColours(node) {
  const style = getComputedStyle(node),
    cssVariable = (name) => style.getPropertyValue(name).trim(),
    dark = document.body.classList.contains("dark");
  const ink = {
    text: cssVariable("--text"),
    card: cssVariable("--card"),
    accent: cssVariable("--accent"),
  };
  const mixed = (part) =>
    pixelOf(`color-mix(in srgb, ${ink.accent} ${part}%, ${cssVariable("--rail")})`);
  return {
    ink: { ...ink, ground: pixelOf(ink.card), faint: pixelOf(cssVariable("--rail")) },
    unknown: pixelOf(cssVariable("--muted")),
    // Neighbouring clusters differ in hue; lightness and chroma are the same for all.
    clusters: Uint32Array.from({ length: CLUSTER_COLOURS }, (_, i) =>
      pixelOf(`oklch(${dark ? 0.74 : 0.6} 0.12 ${(35 + i * GOLDEN_ANGLE) % 360})`),
    ),
    ramp: Uint32Array.from({ length: RAMP_STEPS }, (_, i) =>
      mixed(15 + (85 * i) / (RAMP_STEPS - 1)),
    ),
  };
}

// Code 0 is for points without metadata yet.
export function coloursByCluster(cluster, { unknown, clusters }) {
  return {
    codes: Uint8Array.from(cluster, (c) => (c < 0 ? 0 : 1 + (c % clusters.length))),
    palette: Uint32Array.of(unknown, ...clusters),
  };
}

// Logarithmic scale in equal steps from the smallest to the largest value.
export function coloursByAmount(values, known, { unknown, ramp }) {
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
