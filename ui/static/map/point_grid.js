// Point grid: a spatial index for 65,536 points, and painting them into pixels.

// Sorts points into cells, so that a search looks at a few dozen of them.
export function createGrid(points) {
  const n = points.length / 2,
    box = bounds(points),
    side = Math.max(1, Math.min(256, Math.ceil(Math.sqrt(n / 3))));
  const wide = box.right - box.left || 1,
    high = box.top - box.bottom || 1;
  const column = (x) => Math.max(0, Math.min(side - 1, Math.floor(((x - box.left) / wide) * side))),
    line = (y) => Math.max(0, Math.min(side - 1, Math.floor(((y - box.bottom) / high) * side)));
  const starts = new Uint32Array(side * side + 1),
    cells = new Uint32Array(n),
    members = new Uint32Array(n);
  for (let i = 0; i < n; i++)
    starts[(cells[i] = line(points[2 * i + 1]) * side + column(points[2 * i])) + 1]++;
  for (let c = 0; c < side * side; c++) starts[c + 1] += starts[c];
  const next = starts.slice();
  for (let i = 0; i < n; i++) members[next[cells[i]]++] = i;

  // Calls `visit` with each point in the cells that a rectangle touches.
  function each(left, right, bottom, top, visit) {
    for (let row = line(bottom); row <= line(top); row++)
      for (
        let k = starts[row * side + column(left)], end = starts[row * side + column(right) + 1];
        k < end;
        k++
      )
        visit(members[k]);
  }

  function nearest(x, y, reach) {
    let best = -1,
      least = reach * reach;
    each(x - reach, x + reach, y - reach, y + reach, (i) => {
      const far = (points[2 * i] - x) ** 2 + (points[2 * i + 1] - y) ** 2;
      if (far <= least) [best, least] = [i, far];
    });
    return best;
  }

  function inside(polygon) {
    const flat = bounds(Float64Array.from(polygon.flat())),
      hits = [];
    each(flat.left, flat.right, flat.bottom, flat.top, (i) => {
      if (isInside(points[2 * i], points[2 * i + 1], polygon)) hits.push(i);
    });
    return hits;
  }

  return { box, nearest, inside };
}

export function bounds(points) {
  const box = { left: Infinity, right: -Infinity, bottom: Infinity, top: -Infinity };
  for (let i = 0; i < points.length; i += 2) {
    box.left = Math.min(box.left, points[i]);
    box.right = Math.max(box.right, points[i]);
    box.bottom = Math.min(box.bottom, points[i + 1]);
    box.top = Math.max(box.top, points[i + 1]);
  }
  return points.length ? box : { left: -1, right: 1, bottom: -1, top: 1 };
}

function isInside(x, y, polygon) {
  let is = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [a, b] = polygon[i],
      [c, d] = polygon[j];
    if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) is = !is;
  }
  return is;
}

// A dot as pixel offsets: fully covered ones, and partly covered ones with their coverage in
// 256ths.
export function createDot(radius) {
  const reach = Math.ceil(radius + 0.5),
    full = [],
    part = [];
  for (let y = -reach; y <= reach; y++)
    for (let x = -reach; x <= reach; x++) {
      const cover = Math.round(256 * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y))));
      if (cover === 256) full.push([x, y]);
      else if (cover > 8) part.push([x, y, cover]);
    }
  return { reach, whole: full, part };
}

// Paints into the 32-bit pixels of an ImageData; `view` is the centre in map coordinates, and
// pixels per unit. Integer arithmetic is several times as fast, and two channels times 256 fit
// into 32 bits.
export function paintPoints(
  pixels,
  wide,
  high,
  points,
  view,
  colourOf,
  palette,
  dot,
  only = null,
  want = 1,
) {
  const step = ([x, y]) => y * wide + x,
    full = Int32Array.from(dot.whole, step),
    part = Int32Array.from(dot.part, step),
    covers = Int32Array.from(dot.part, ([, , cover]) => cover);
  const colours = Int32Array.from(palette, (c) => c | 0),
    n = points.length / 2,
    { reach } = dot;
  const left = wide / 2 - view.x * view.scale,
    top = high / 2 + view.y * view.scale;
  for (let i = 0; i < n; i++) {
    if (only !== null && only[i] !== want) continue;
    const x = Math.round(left + points[2 * i] * view.scale),
      y = Math.round(top - points[2 * i + 1] * view.scale);
    if (x < reach || y < reach || x >= wide - reach || y >= high - reach) continue;
    const colour = colours[colourOf[i]],
      at = (y | 0) * wide + (x | 0);
    for (let k = 0; k < full.length; k++) pixels[at + full[k]] = colour;
    for (let k = 0; k < part.length; k++)
      pixels[at + part[k]] = blend(pixels[at + part[k]], colour, covers[k]);
  }
}

function blend(under, colour, cover) {
  const rest = 256 - cover;
  return (
    0xff000000 |
    (((Math.imul(under & 0xff00ff, rest) + Math.imul(colour & 0xff00ff, cover)) >>> 8) & 0xff00ff) |
    (((Math.imul(under & 0xff00, rest) + Math.imul(colour & 0xff00, cover)) >>> 8) & 0xff00)
  );
}

// Label placement: keeps the labels [name, x, y], given by their centre, that overlap no earlier
// one.
export function placeLabels(names, width, wide, high, tall = 18) {
  const taken = [];
  return names.filter(([name, x, y]) => {
    const half = width(name) / 2 + 6,
      box = [x - half, x + half, y - tall / 2, y + tall / 2];
    if (
      box[0] < 0 ||
      box[1] > wide ||
      box[2] < 0 ||
      box[3] > high ||
      taken.some((t) => box[0] < t[1] && box[1] > t[0] && box[2] < t[3] && box[3] > t[2])
    )
      return false;
    taken.push(box);
    return true;
  });
}
