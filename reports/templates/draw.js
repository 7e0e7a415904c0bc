/* Budgets by their labels, "192" or "34%": as they are shown, as a sentence names them, and their order, counts before shares. */
const budgetShown = (label) => label.replace("%", "\u00a0%");
const budgetPhrase = (label) => label.endsWith("%") ? `${budgetShown(label)} of the tokens` : `${label} token${label === "1" ? "" : "s"}`;
const byBudget = (a, b) => a.endsWith("%") - b.endsWith("%") || parseFloat(a) - parseFloat(b);

/* How an answer was scored: what was read in it where that is not all of it, and what the rules make of it where they disagree. */
const rulingOf = (answer) => {
  const said = (score) => score >= 1 ? "right" : score <= 0 ? "wrong" : `partly right (${score.toFixed(2)})`;
  const lines = [];
  if (answer.read !== undefined && answer.read !== (answer.prediction ?? "").trim()) lines.push(`read as “${answer.read}”`);
  if (answer.undecided) lines.push("its rule cannot decide, so it counts as wrong");
  if (answer.rules) lines.push(`⚑ rules disagree: ${Object.entries(answer.rules).map(([rule, score]) => `${rule} ${said(score)}`).join(", ")}`);
  return lines;
};

/* What is drawn over a picture: covered tokens, outlines, scores, merged groups. A token is a cell of an area's grid. */
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const maskOf = (text) => {
  const bytes = bytesOf(text);
  return (i) => (bytes[i >> 3] >> (7 - (i & 7)) & 1) === 1;
};
const sourcesOf = (text) => new Int16Array(bytesOf(text).buffer);

/* Areas from lists [rows, columns, top, left, bottom, right], with the number of each one's first token. */
const areasOf = (lists) => {
  let first = 0;
  return lists.map(([rows, columns, top, left, bottom, right]) => {
    const area = { rows, columns, top, left, bottom, right, first };
    first += rows * columns;
    return area;
  });
};
const gridArea = ([rows, columns]) => areasOf([[rows, columns, 0, 0, 1, 1]]);
const tokensIn = (areas) => areas.reduce((sum, area) => sum + area.rows * area.columns, 0);

/* Areas that lie beside each other share a picture; an overview of the whole gets one of its own. */
const layersOf = (areas) => {
  const near = 1e-3;
  const apart = (a, b) => a.left > b.right - near || b.left > a.right - near || a.top > b.bottom - near || b.top > a.bottom - near;
  const layers = [];
  for (const area of areas) {
    const free = layers.find((layer) => layer.every((other) => apart(area, other)));
    if (free) free.push(area); else layers.push([area]);
  }
  return layers;
};

const shape = (tag, className, attributes, text) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  if (className) made.setAttribute("class", className);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const path = (className, d, more = {}) => shape("path", className, { d, ...more });

/* An SVG over the whole picture; `fill(area)` gives the shapes of one area in units of its tokens. */
const overlay = (layer, fill) => {
  const svg = shape("svg", "", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const area of layer) {
    const [width, height] = [(area.right - area.left) / area.columns, (area.bottom - area.top) / area.rows];
    const part = svg.appendChild(shape("g", "", { transform: `translate(${area.left} ${area.top}) scale(${width} ${height})` }));
    part.append(...fill(area));
  }
  return svg;
};

/* One rectangle for each run of tokens in a row for which `at` holds. */
const runs = (area, at) => {
  let d = "";
  for (let y = 0; y < area.rows; y++) {
    for (let x = 0; x < area.columns; x++) {
      const from = x;
      while (x < area.columns && at(area.first + y * area.columns + x)) x++;
      if (x > from) d += `M${from} ${y}h${x - from}v1h${from - x}z`;
    }
  }
  return d;
};

/* Lines between neighbours of unlike `kind`; what lies outside the area is `outside`. */
const lines = (area, kind, outside) => {
  const at = (y, x) => y < 0 || x < 0 || y >= area.rows || x >= area.columns ? outside : kind(area.first + y * area.columns + x);
  let d = "";
  for (let y = 0; y <= area.rows; y++) {
    for (let x = 0; x <= area.columns; x++) {
      if (at(y, x) !== at(y - 1, x)) d += `M${x} ${y}h1`;
      if (at(y, x) !== at(y, x - 1)) d += `M${x} ${y}v1`;
    }
  }
  return d;
};

const covered = (layer, kept, shade) => overlay(layer, (area) => [path(`gone ${shade}`, runs(area, (i) => !kept(i)))]);
const outlined = (layer, mask, className) => overlay(layer, (area) => {
  const d = lines(area, mask, false);
  return [path(`${className} under`, d), path(`${className} over`, d)];
});

/* Merged groups: a colour each, lines between unlike neighbours, and a line from every token to where its group stands. */
const merged = (layer, source, shade) => overlay(layer, (area) => {
  const groups = new Map();
  for (let i = area.first; i < area.first + area.rows * area.columns; i++) {
    if (source[i] >= 0) groups.set(source[i], [...(groups.get(source[i]) || []), i]);
  }
  const place = (i) => [(i - area.first) % area.columns + 0.5, Math.floor((i - area.first) / area.columns) + 0.5];
  const shapes = [path(`gone ${shade}`, runs(area, (i) => source[i] < 0))];
  for (const [number, tokens] of groups) {
    if (tokens.length < 2) continue;
    const places = tokens.map(place);
    const [x, y] = [0, 1].map((axis) => places.reduce((sum, p) => sum + p[axis], 0) / places.length);
    const one = shape("g", "group", {});
    one.append(
      shape("title", "", {}, `${tokens.length} tokens became one`),
      path("fill", runs(area, (i) => source[i] === number), { fill: `hsl(${number * 137.508 % 360} 85% 55%)` }),
      path("tie", places.map(([a, b]) => `M${x} ${y}L${a} ${b}`).join("")),
      path("stand", `M${x} ${y}h0`),
    );
    shapes.push(one);
  }
  const d = lines(area, (i) => source[i], -2);
  return [...shapes, path("seam under", d), path("seam over", d)];
});

/* Scores by rank as one pixel a token, dark to bright; tokens that were gone stay clear. */
const HEAT = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]]; // inferno
const heat = (rank) => {
  const at = (rank - 1) / 254 * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((value, channel) => Math.round(value + (at - low) * (HEAT[low + 1][channel] - value)));
};
const heated = (layer, ranks) => layer.map((area) => {
  const canvas = el("canvas", "heat");
  [canvas.width, canvas.height] = [area.columns, area.rows];
  for (const [side, share] of [["left", area.left], ["top", area.top], ["width", area.right - area.left], ["height", area.bottom - area.top]]) {
    canvas.style[side] = `${100 * share}%`;
  }
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(area.columns, area.rows);
  for (let i = 0; i < area.rows * area.columns; i++) {
    const rank = ranks[area.first + i];
    pixels.data.set(rank ? [...heat(rank), 255] : [0, 0, 0, 0], 4 * i);
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
});
