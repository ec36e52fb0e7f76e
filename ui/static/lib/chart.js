// Charts: line charts with bands, and histograms, as inline SVG with a text description.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 360,
  HEIGHT = 168,
  LEFT = 36,
  RIGHT = 8,
  TOP = 10,
  BOTTOM = 22;

function svgElement(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes))
    if (value != null) node.setAttribute(name, value);
  node.append(...children.flat(2).filter((c) => c != null));
  return node;
}

const frame = (description, high, ...inside) =>
  svgElement(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDTH} ${high}`, role: "img", "aria-label": description },
    ...inside,
  );
const textNode = (x, y, description, anchor = "middle") =>
  svgElement("text", { x, y, "text-anchor": anchor }, description);
const linearScale = (low, high, from, to) => (value) =>
  from + ((value - low) / (high - low || 1)) * (to - from);

// Tick values: about that many round numbers from `low` to `high`.
export function ticks(low, high, about = 4) {
  const rough = (high - low) / about || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9),
    last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => +((first + i) * step).toPrecision(6));
}

// lines: [{ kind, points: [[x, y], …] }]; bands: [[from, to], …] on the x axis.
export function lineChart({ lines, bands = [], across, description }) {
  const all = lines.flatMap((line) => line.points),
    ys = all.map(([, y]) => y);
  const [low, high] = [Math.min(0, ...ys), Math.max(...ys, 0.1) * 1.08];
  const [first, last] = across || [
    Math.min(...all.map(([x]) => x)),
    Math.max(...all.map(([x]) => x)),
  ];
  const x = linearScale(first, last, LEFT, WIDTH - RIGHT),
    y = linearScale(low, high, HEIGHT - BOTTOM, TOP);
  return frame(
    description,
    HEIGHT,
    bands.map(([from, to]) =>
      svgElement("rect", {
        class: "band",
        x: x(from),
        y: TOP,
        width: Math.max(1, x(to) - x(from)),
        height: HEIGHT - BOTTOM - TOP,
      }),
    ),
    ticks(low, high, 3).map((t) => [
      svgElement("line", {
        class: t ? "grid" : "base",
        x1: LEFT,
        x2: WIDTH - RIGHT,
        y1: y(t),
        y2: y(t),
      }),
      textNode(LEFT - 6, y(t) + 4, formatTick(t), "end"),
    ]),
    ticks(first, last).map((t) => textNode(x(t), HEIGHT - 6, formatTick(t))),
    first < 0 && last > 0
      ? svgElement("line", { class: "base", x1: x(0), x2: x(0), y1: TOP, y2: HEIGHT - BOTTOM })
      : null,
    lines.map((line) => linePath(line, x, y)),
  );
}

const linePath = ({ kind, points }, x, y) =>
  svgElement(
    "g",
    { class: kind },
    svgElement("path", {
      d: points
        .map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`)
        .join(""),
    }),
    points.map(([a, b]) =>
      svgElement("circle", { cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 2.6 }),
    ),
  );

// Histogram of equal bins from 0. Heights are logarithmic, since most activations are weak.
export function barChart({ width, counts, description }) {
  const high = 120,
    max = Math.log1p(Math.max(1, ...counts)),
    span = width * counts.length;
  const x = linearScale(0, span, LEFT - 28, WIDTH - RIGHT),
    y = linearScale(0, max, high - BOTTOM, TOP);
  return frame(
    description,
    high,
    counts.map((n, i) =>
      svgElement("rect", {
        class: "histogram-bar",
        x: x(i * width) + 1,
        width: x(width) - x(0) - 2,
        y: y(Math.log1p(n)),
        height: high - BOTTOM - y(Math.log1p(n)),
      }),
    ),
    svgElement("line", {
      class: "base",
      x1: x(0),
      x2: x(span),
      y1: high - BOTTOM,
      y2: high - BOTTOM,
    }),
    ticks(0, span).map((t) =>
      textNode(
        x(t),
        high - 6,
        formatTick(t),
        t === 0 ? "start" : t > span * 0.97 ? "end" : "middle",
      ),
    ),
  );
}

const formatTick = (value) => String(+value.toPrecision(3)).replace("-", "−");
