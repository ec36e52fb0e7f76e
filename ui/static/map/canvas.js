// Map canvas: viewport, drawing, pointer and keyboard input.
import { el } from "../lib/dom.js";
import { createDot, createGrid, paintPoints, placeLabels } from "./point_grid.js";

const MAX_ZOOM = 400,
  MIN_ZOOM = 0.5,
  HIT_RADIUS = 14,
  TOUCH_HIT_RADIUS = 24,
  CLICK_SLOP = 6,
  PAN_STEP = 70;
const FONT = "600 12.5px system-ui, sans-serif";

// `name(i)` returns a point's label; `act` has open(i), picked(list), and looked(i) for the point
// nearest to the middle.
export function createCanvas({ name, ...act }) {
  const dots = el("canvas", { class: "dots", "aria-hidden": "true" });
  const over = el("canvas", {
    class: "overlay",
    tabindex: 0,
    role: "application",
    "aria-label": "Map of features",
    "aria-describedby": "map-keys",
  });
  const tip = el("div", { class: "tip", "aria-hidden": "true", hidden: true });
  const node = el("div", { class: "canvas" }, dots, over, tip);
  const self = {
    node,
    dots,
    over,
    tip,
    name,
    act,
    points: new Float32Array(),
    grid: null,
    codes: new Uint8Array(),
    palette: new Uint32Array(1),
    ink: {},
    names: [],
    only: null,
    shown: -1,
    under: -1,
    wide: 0,
    high: 0,
    ratio: 1,
    view: { x: 0, y: 0, scale: 1 },
    home: true,
    fitted: 1,
    lasso: false,
    path: null,
    frame: 0,
    steered: false,
  };
  new ResizeObserver(() => resize(self)).observe(node);
  addListeners(self);
  return {
    node,
    canvas: over,
    show(points) {
      Object.assign(self, {
        points,
        grid: createGrid(points),
        codes: new Uint8Array(points.length / 2),
        only: null,
        shown: -1,
        under: -1,
      });
      fitAll(self);
    },
    colour(codes, palette, ink) {
      Object.assign(self, { codes, palette, ink });
      scheduleDraw(self);
    },
    names(list) {
      self.names = list;
      scheduleDraw(self);
    },
    only(mask) {
      self.only = mask;
      scheduleDraw(self);
    },
    mark(i) {
      self.shown = i;
      scheduleDraw(self);
    },
    lasso(on) {
      self.lasso = on;
      over.classList.toggle("lasso", on);
    },
    zoom: (by) => zoom(self, by, self.wide / 2, self.high / 2),
    reset: () => fitAll(self),
    frame: (indices) => zoomTo(self, indices),
  };
}

function resize(self) {
  const { clientWidth: wide, clientHeight: high } = self.node;
  if (!wide || !high) return;
  Object.assign(self, { wide, high, ratio: Math.min(2, devicePixelRatio || 1) });
  for (const canvas of [self.dots, self.over])
    [canvas.width, canvas.height] = [Math.round(wide * self.ratio), Math.round(high * self.ratio)];
  self.home ? fitAll(self) : scheduleDraw(self, true);
}

function fitAll(self) {
  self.home = true;
  if (self.grid && self.wide) setView(self, self.grid.box);
  scheduleDraw(self);
}

function setView(self, { left, right, bottom, top }, closest = Infinity) {
  const scale = Math.min(
    (self.wide - 48) / (right - left || 0.02),
    (self.high - 48) / (top - bottom || 0.02),
    closest,
  );
  if (self.home) self.fitted = scale;
  self.view = { x: (left + right) / 2, y: (bottom + top) / 2, scale };
}

// Zooms to some points, but not so far that no others are visible around them.
function zoomTo(self, indices) {
  if (!indices.length || !self.wide) return;
  const xs = indices.map((i) => self.points[2 * i]),
    ys = indices.map((i) => self.points[2 * i + 1]),
    least = (list) => list.reduce((a, b) => Math.min(a, b)),
    max = (list) => list.reduce((a, b) => Math.max(a, b));
  self.home = false;
  setView(
    self,
    { left: least(xs), right: max(xs), bottom: least(ys), top: max(ys) },
    self.fitted * 6,
  );
  scheduleDraw(self);
}

// Draws at most once a frame.
function scheduleDraw(self, now = false) {
  if (now) return draw(self);
  if (!self.frame) self.frame = requestAnimationFrame(() => draw(self));
}

function draw(self) {
  cancelAnimationFrame(self.frame);
  self.frame = 0;
  if (!self.wide || !self.grid) return;
  drawDots(self);
  drawOverlay(self);
  self.node.dataset.points = self.points.length / 2;
}

function drawDots(self) {
  const {
      dots: { width, height },
      ratio,
      view,
      points,
      codes,
      palette,
      only,
    } = self,
    context = self.dots.getContext("2d"),
    n = points.length / 2;
  if (self.image?.width !== width || self.image?.height !== height)
    self.image = context.createImageData(width, height);
  const pixels = new Int32Array(self.image.data.buffer),
    seen = { x: view.x, y: view.y, scale: view.scale * ratio };
  const crowd = Math.sqrt((self.wide * self.high) / Math.max(1, n)),
    zoomed = Math.max(1, view.scale / self.fitted) ** 0.45;
  const radius = Math.min(6, Math.max(0.9, Math.min(3.2, crowd * 0.2)) * zoomed) * ratio;
  pixels.fill(self.ink.ground ?? 0xffffffff);
  if (!only) paintPoints(pixels, width, height, points, seen, codes, palette, createDot(radius));
  else {
    paintPoints(
      pixels,
      width,
      height,
      points,
      seen,
      new Uint8Array(n),
      Uint32Array.of(self.ink.faint),
      createDot(radius),
      only,
      0,
    );
    paintPoints(
      pixels,
      width,
      height,
      points,
      seen,
      codes,
      palette,
      createDot(Math.max(radius, 2.4 * ratio)),
      only,
      1,
    );
  }
  context.putImageData(self.image, 0, 0);
}

const toScreen = (self, i) => [
  self.wide / 2 + (self.points[2 * i] - self.view.x) * self.view.scale,
  self.high / 2 - (self.points[2 * i + 1] - self.view.y) * self.view.scale,
];
const toMap = (self, x, y) => [
  self.view.x + (x - self.wide / 2) / self.view.scale,
  self.view.y - (y - self.high / 2) / self.view.scale,
];

function drawOverlay(self) {
  const context = self.over.getContext("2d"),
    { ink } = self;
  context.setTransform(self.ratio, 0, 0, self.ratio, 0, 0);
  context.clearRect(0, 0, self.wide, self.high);
  drawNames(self, context);
  for (const [i, colour] of [
    [self.shown, ink.accent],
    [self.under, ink.text],
  ])
    if (i >= 0) drawRing(context, ...toScreen(self, i), colour);
  if (self.steered) drawCross(context, self.wide / 2, self.high / 2, ink.text);
  if (self.path) drawLasso(context, self.path, ink.accent);
}

function drawNames(self, context) {
  Object.assign(context, {
    font: FONT,
    textAlign: "center",
    textBaseline: "middle",
    lineWidth: 4,
    lineJoin: "round",
    strokeStyle: self.ink.card,
    fillStyle: self.ink.text,
  });
  const where = self.names.map(({ name, x, y }) => [
    name,
    self.wide / 2 + (x - self.view.x) * self.view.scale,
    self.high / 2 - (y - self.view.y) * self.view.scale,
  ]);
  for (const [name, x, y] of placeLabels(
    where,
    (words) => context.measureText(words).width,
    self.wide,
    self.high,
  )) {
    context.strokeText(name, x, y);
    context.fillText(name, x, y);
  }
}

function drawRing(context, x, y, colour) {
  Object.assign(context, { strokeStyle: colour, lineWidth: 2 });
  context.beginPath();
  context.arc(x, y, 8, 0, 2 * Math.PI);
  context.stroke();
}

function drawCross(context, x, y, colour) {
  Object.assign(context, { strokeStyle: colour, lineWidth: 1.5 });
  context.beginPath();
  for (const [dx, dy] of [
    [1, 0],
    [-1, 0],
    [0, 1],
    [0, -1],
  ]) {
    context.moveTo(x + 4 * dx, y + 4 * dy);
    context.lineTo(x + 11 * dx, y + 11 * dy);
  }
  context.stroke();
}

function drawLasso(context, path, colour) {
  Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineWidth: 2 });
  context.beginPath();
  for (const [x, y] of path) context.lineTo(x, y);
  context.closePath();
  context.globalAlpha = 0.12;
  context.fill();
  context.globalAlpha = 1;
  context.stroke();
}

function zoom(self, by, x, y) {
  const before = toMap(self, x, y),
    scale = Math.min(
      self.fitted * MAX_ZOOM,
      Math.max(self.fitted * MIN_ZOOM, self.view.scale * by),
    );
  self.home = false;
  self.view.scale = scale;
  const after = toMap(self, x, y);
  self.view.x += before[0] - after[0];
  self.view.y += before[1] - after[1];
  scheduleDraw(self);
}

function pan(self, dx, dy) {
  self.home = false;
  self.view.x -= dx / self.view.scale;
  self.view.y += dy / self.view.scale;
  scheduleDraw(self);
}

function nearestPoint(self, x, y, reach) {
  return self.grid ? self.grid.nearest(...toMap(self, x, y), reach / self.view.scale) : -1;
}

function hover(self, i, [x, y] = i >= 0 ? toScreen(self, i) : []) {
  self.tip.hidden = i < 0;
  if (i >= 0) {
    self.tip.textContent = self.name(i);
    const rightmost = Math.max(8, self.wide - self.tip.offsetWidth - 8);
    self.tip.style.left = `${Math.min(Math.max(8, x + 14), rightmost)}px`;
    self.tip.style.top = `${y > self.high - 60 ? y - 14 - self.tip.offsetHeight : y + 14}px`;
  }
  if (i === self.under) return;
  self.under = i;
  self.over.style.cursor = self.lasso ? "crosshair" : i >= 0 ? "pointer" : "";
  if (self.wide && self.grid) drawOverlay(self);
}

function addListeners(self) {
  const { over } = self,
    fingers = new Map();
  const place = (event) => {
    const box = over.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let begun = null;
  over.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    over.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, place(event));
    begun = {
      at: place(event),
      moved: fingers.size > 1,
      reach: event.pointerType === "touch" ? TOUCH_HIT_RADIUS : HIT_RADIUS,
    };
    self.steered = false;
    self.path = fingers.size === 1 && (self.lasso || event.shiftKey) ? [place(event)] : null;
  });
  over.addEventListener("pointermove", (event) => {
    const now = place(event),
      before = fingers.get(event.pointerId);
    if (!before)
      return event.pointerType === "touch"
        ? null
        : hover(self, nearestPoint(self, ...now, HIT_RADIUS));
    if (Math.hypot(now[0] - begun.at[0], now[1] - begun.at[1]) > CLICK_SLOP) begun.moved = true;
    if (begun.moved) onDrag(self, fingers, event.pointerId, before, now);
    if (begun.moved || fingers.size > 1) fingers.set(event.pointerId, now);
  });
  for (const kind of ["pointerup", "pointercancel"])
    over.addEventListener(kind, (event) => {
      if (!fingers.delete(event.pointerId) || fingers.size) return;
      if (self.path) finishLasso(self, kind === "pointerup");
    });
  // on click, not on pointerup: the click that follows would close the dialog
  over.addEventListener("click", (event) => {
    const i = begun && !begun.moved ? nearestPoint(self, ...place(event), begun.reach) : -1;
    begun = null;
    if (i >= 0) self.act.open(i);
  });
  over.addEventListener("pointerleave", () => hover(self, -1));
  over.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(self, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...place(event));
    },
    { passive: false },
  );
  over.addEventListener("keydown", (event) => onKey(self, event));
  over.addEventListener("blur", () => {
    self.steered = false;
    hover(self, -1);
    scheduleDraw(self);
  });
  over.addEventListener("focus", () => {
    if (over.matches(":focus-visible")) hoverMiddle(self);
  });
}

function onDrag(self, fingers, id, before, now) {
  hover(self, -1);
  if (self.path) {
    self.path.push(now);
    return scheduleDraw(self);
  }
  if (fingers.size < 2) return pan(self, now[0] - before[0], now[1] - before[1]);
  const [other] = [...fingers].filter(([one]) => one !== id).map(([, where]) => where),
    gap = (a) => Math.max(12, Math.hypot(a[0] - other[0], a[1] - other[1]));
  zoom(self, gap(now) / gap(before), (before[0] + other[0]) / 2, (before[1] + other[1]) / 2);
  pan(self, (now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
}

function finishLasso(self, completed) {
  const { path } = self;
  self.path = null;
  scheduleDraw(self);
  if (completed && path.length > 2)
    self.act.picked(self.grid.inside(path.map(([x, y]) => toMap(self, x, y))));
}

function onKey(self, event) {
  const keys = {
    ArrowLeft: () => pan(self, PAN_STEP, 0),
    ArrowRight: () => pan(self, -PAN_STEP, 0),
    ArrowUp: () => pan(self, 0, PAN_STEP),
    ArrowDown: () => pan(self, 0, -PAN_STEP),
    "+": () => zoom(self, 1.4, self.wide / 2, self.high / 2),
    "=": () => zoom(self, 1.4, self.wide / 2, self.high / 2),
    "-": () => zoom(self, 1 / 1.4, self.wide / 2, self.high / 2),
    0: () => fitAll(self),
    Enter: () => self.under >= 0 && self.act.open(self.under),
  };
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (event.key !== "Enter") hover(self, -1);
  if (event.key === "Enter" && !self.steered) hoverMiddle(self);
  keys[event.key]();
  if (event.key !== "Enter") hoverMiddle(self);
}

// Keyboard hover: selects the point nearest to the middle.
function hoverMiddle(self) {
  if (!self.grid || !self.wide) return;
  let i = -1;
  for (let reach = 40; i < 0 && reach < 1e5; reach *= 2)
    i = nearestPoint(self, self.wide / 2, self.high / 2, reach);
  self.steered = true;
  hover(self, i);
  scheduleDraw(self);
  self.act.looked(i);
}
