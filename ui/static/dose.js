// Doses: numbers from −2 to +2 and the words for them. Knows no elements but the helper that makes them.
const LOW = -2, HIGH = 2, STEP = 0.05, SAFE = 1;

const clamp = (x) => Math.min(HIGH, Math.max(LOW, x));
const tidy = (x) => +(+x).toFixed(2) || 0;
const stepped = (x) => tidy(Math.round(x / STEP) * STEP);
const snapped = (x) => (Math.abs(x) <= STEP + 1e-9 ? 0 : x);
const percent = (x) => ((clamp(x) - LOW) / (HIGH - LOW)) * 100;
const push = ({ rows, features, scale }) => (rows || features).filter((r) => r.mode === "add").reduce((sum, r) => sum + Math.abs(r.strength), 0) * scale;
const inSpot = (row) => row.spot && row.strength >= row.spot.low && row.strength <= row.spot.high;
const inDanger = (row) => row.mode === "add" && Math.abs(row.strength) > SAFE + 1e-9;

function spotWords(row) {
  if (row.mode === "ablate") return "switched off";
  if (row.mode === "scale") return "what it does is multiplied";
  if (row.spot) return `sweet spot ${tidy(row.spot.low)}–${tidy(row.spot.high)}${row.spot.n ? `, ${row.spot.n} prompts` : ""}`;
  return row.measured ? "1.0 is the most that stayed coherent" : "not measured";
}

function placeWords(row) {
  if (inDanger(row)) return "beyond 1.0, often breaks";
  if (inSpot(row)) return "inside the sweet spot";
  return row.strength === 0 ? "off" : "";
}

const spoken = (row) => `dose ${tidy(row.strength)}${placeWords(row) ? ", " + placeWords(row) : ""}`;

// Texts become text nodes, so that no label is ever read as HTML.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c != null));
  return node;
}
