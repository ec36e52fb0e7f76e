// Small charts as inline SVG: lines with bands behind them, and bars. Each says in words what it shows. Knows numbers only.
const SVG = "http://www.w3.org/2000/svg";
const WIDE = 360,
  HIGH = 168,
  LEFT = 36,
  RIGHT = 8,
  TOP = 10,
  FOOT = 22;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes))
    if (value != null) node.setAttribute(name, value);
  node.append(...children.flat(2).filter((c) => c != null));
  return node;
}

const frame = (words, high, ...inside) =>
  svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDE} ${high}`, role: "img", "aria-label": words },
    ...inside,
  );
const text = (x, y, words, anchor = "middle") =>
  svg("text", { x, y, "text-anchor": anchor }, words);
const scaled = (low, high, from, to) => (value) =>
  from + ((value - low) / (high - low || 1)) * (to - from);

// A few round numbers between two.
export function ticks(low, high, about = 4) {
  const rough = (high - low) / about || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9),
    last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => +((first + i) * step).toPrecision(6));
}

// lines: [{ kind, points: [[x, y], …] }]; bands: [[from, to], …] on the x axis.
export function lineChart({ lines, bands = [], across, words }) {
  const all = lines.flatMap((line) => line.points),
    ys = all.map(([, y]) => y);
  const [low, high] = [Math.min(0, ...ys), Math.max(...ys, 0.1) * 1.08];
  const [first, last] = across || [
    Math.min(...all.map(([x]) => x)),
    Math.max(...all.map(([x]) => x)),
  ];
  const x = scaled(first, last, LEFT, WIDE - RIGHT),
    y = scaled(low, high, HIGH - FOOT, TOP);
  return frame(
    words,
    HIGH,
    bands.map(([from, to]) =>
      svg("rect", {
        class: "band",
        x: x(from),
        y: TOP,
        width: Math.max(1, x(to) - x(from)),
        height: HIGH - FOOT - TOP,
      }),
    ),
    ticks(low, high, 3).map((t) => [
      svg("line", { class: t ? "grid" : "base", x1: LEFT, x2: WIDE - RIGHT, y1: y(t), y2: y(t) }),
      text(LEFT - 6, y(t) + 4, short(t), "end"),
    ]),
    ticks(first, last).map((t) => text(x(t), HIGH - 6, short(t))),
    first < 0 && last > 0
      ? svg("line", { class: "base", x1: x(0), x2: x(0), y1: TOP, y2: HIGH - FOOT })
      : null,
    lines.map((line) => drawn(line, x, y)),
  );
}

const drawn = ({ kind, points }, x, y) =>
  svg(
    "g",
    { class: kind },
    svg("path", {
      d: points
        .map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`)
        .join(""),
    }),
    points.map(([a, b]) => svg("circle", { cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 2.6 })),
  );

// Counts of equal parts, from 0 on. Heights are logarithms, since most of what fires fires weakly.
export function barChart({ width, counts, words }) {
  const high = 120,
    most = Math.log1p(Math.max(1, ...counts)),
    span = width * counts.length;
  const x = scaled(0, span, LEFT - 28, WIDE - RIGHT),
    y = scaled(0, most, high - FOOT, TOP);
  return frame(
    words,
    high,
    counts.map((n, i) =>
      svg("rect", {
        class: "bar-of",
        x: x(i * width) + 1,
        width: x(width) - x(0) - 2,
        y: y(Math.log1p(n)),
        height: high - FOOT - y(Math.log1p(n)),
      }),
    ),
    svg("line", { class: "base", x1: x(0), x2: x(span), y1: high - FOOT, y2: high - FOOT }),
    ticks(0, span).map((t) =>
      text(x(t), high - 6, short(t), t === 0 ? "start" : t > span * 0.97 ? "end" : "middle"),
    ),
  );
}

const short = (value) => String(+value.toPrecision(3)).replace("-", "−");
