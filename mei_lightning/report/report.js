"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const { channels, height, width, frames: FRAMES, columns } = DATA;
const COUNT = DATA.neurons.length;
const COLUMN = new Map(columns.map((column) => [column.key, column]));
const byId = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

function number(value) {
  if (value === null) return "–";
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude >= 1e5 || magnitude < 1e-3)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function shown(column, row) {
  const value = column.values[row];
  return column.kind === "number" ? number(value) : value === "" ? "–" : value;
}

// The record of a neuron: little-endian 32-bit floats, then signed bytes, compressed.
async function record(row) {
  const text = byId(`movie-${row}`).textContent;
  if (text === "") return null;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  let offset = 0;
  const floats = (count) => {
    const view = new DataView(buffer, offset, 4 * count);
    offset += 4 * count;
    return Array.from({ length: count }, (_, i) => view.getFloat32(4 * i, true));
  };
  const [limit] = floats(1);
  const shares = floats(channels.length);
  const temporal = channels.map(() => floats(FRAMES));
  const response = floats(DATA.responseFrames);
  const restarts = floats(DATA.restarts);
  const pixels = height * width;
  const spatial = channels.map((_, c) => new Int8Array(buffer, offset + c * pixels, pixels));
  offset += channels.length * pixels;
  // Each frame is stored as the difference to the one before, with the carry of signed bytes.
  const movie = new Int8Array(buffer.slice(offset));
  for (let c = 0; c < channels.length; c++) {
    const start = c * FRAMES * pixels;
    for (let i = start + pixels; i < start + FRAMES * pixels; i++) movie[i] += movie[i - pixels];
  }
  return { limit, shares, temporal, response, restarts, spatial, movie, peak: peakFrame(movie) };
}

function peakFrame(movie) {
  const pixels = height * width;
  let peak = 0;
  let most = -1;
  for (let t = 0; t < FRAMES; t++) {
    let power = 0;
    for (let c = 0; c < channels.length; c++) {
      const start = (c * FRAMES + t) * pixels;
      for (let i = start; i < start + pixels; i++) power += movie[i] * movie[i];
    }
    if (power > most) [most, peak] = [power, t];
  }
  return peak;
}

// Which channels red, green and blue show; more than three channels stand side by side in grey.
const SHOWN_BY = { 1: [[0, 0, 0]], 2: [[1, 0, 1]], 3: [[0, 1, 2]] }[channels.length] || channels.map((_, c) => [c, c, c]);

function drawFrame(canvas, movie, t, tiles = SHOWN_BY) {
  const pixels = height * width;
  canvas.width = width * tiles.length;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  tiles.forEach((shownBy, tile) => {
    for (let i = 0; i < pixels; i++) {
      for (let k = 0; k < 3; k++) image.data[4 * i + k] = 128 + movie[(shownBy[k] * FRAMES + t) * pixels + i];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, tile * width, 0);
  });
}

// From blue over white to red, as in the figures.
const DIVERGING = [[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]];

function diverging(value) {
  const place = Math.min(Math.max((value + 1) * 2, 0), 3.999999);
  const [low, high] = [DIVERGING[Math.floor(place)], DIVERGING[Math.floor(place) + 1]];
  return low.map((from, k) => from + (high[k] - from) * (place - Math.floor(place)));
}

function drawMap(canvas, values) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  values.forEach((value, i) => image.data.set([...diverging(value / 127), 255], 4 * i));
  context.putImageData(image, 0, 0);
}

// ---- Animation: one clock for all movies on the screen.

const moving = new Map(); // canvas -> a function that draws a frame of it, and the frame to rest at
const RATE = DATA.frameRate || 1;
let playing = FRAMES > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches;
let lastFrame = -1;

function animate(milliseconds) {
  if (!playing) return;
  const t = Math.floor((milliseconds / 1000) * RATE) % FRAMES;
  if (t !== lastFrame) {
    lastFrame = t;
    for (const { draw } of moving.values()) draw(t);
  }
  requestAnimationFrame(animate);
}

function setPlaying(on) {
  playing = on && FRAMES > 1;
  byId("play").textContent = playing ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", String(playing));
  if (playing) requestAnimationFrame(animate);
  else for (const { draw, peak } of moving.values()) draw(peak);
}

addEventListener("beforeprint", () => { for (const { draw, peak } of moving.values()) draw(peak); });

function addMoving(canvas, draw, peak) {
  moving.set(canvas, { draw, peak });
  draw(playing && lastFrame >= 0 ? lastFrame : peak);
}

// ---- The gallery: a card for each neuron, whose movie is decoded while it is on the screen.

const gallery = byId("gallery");
const cards = DATA.neurons.map((label, row) => {
  const hasStimulus = byId(`movie-${row}`).firstChild !== null;
  const type = COLUMN.get("type");
  const score = COLUMN.get("score");
  const status = COLUMN.get("status");
  const picture = hasStimulus
    ? element("canvas", { width: width * SHOWN_BY.length, height, "aria-hidden": "true" })
    : element("span", { className: "empty" }, "no stimulus");
  // To be seen through the empty canvas until the movie is decoded, and in print.
  if (hasStimulus) picture.style.backgroundImage = `url(data:image/png;base64,${byId(`movie-${row}`).dataset.poster})`;
  else picture.style.aspectRatio = `${width} / ${height}`;
  const about = [`score ${shown(score, row)}`];
  if (status && status.values[row] !== "converged") about.push(shown(status, row));
  const button = element(
    "button",
    { type: "button", className: "card" },
    picture,
    element("span", { className: "name" }, label),
    ...(type ? [element("span", {}, shown(type, row))] : []),
    element("span", { className: "quiet" }, about.join(", ")),
  );
  button.title = label;
  button.addEventListener("click", () => open(row));
  const item = element("li", { "data-row": row }, button);
  return { item, button, canvas: hasStimulus ? picture : null };
});
gallery.append(...cards.map((card) => card.item));

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const row = Number(target.dataset.row);
      const { canvas } = cards[row];
      if (isIntersecting) {
        target.dataset.visible = "";
        record(row).then((it) => {
          if ("visible" in target.dataset) addMoving(canvas, (t) => drawFrame(canvas, it.movie, t), it.peak);
        });
      } else {
        delete target.dataset.visible;
        moving.delete(canvas);
        canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      }
    }
  },
  { rootMargin: "200px" },
);
for (const { item, canvas } of cards) if (canvas) observer.observe(item);

// ---- Sorting and filtering.

for (const key of ["session", "type", "status"]) {
  const column = COLUMN.get(key);
  if (!column) continue;
  const select = element("select", { className: "filter", "data-column": key });
  select.append(element("option", { value: "" }, "all"), ...options(column));
  byId("filters").append(element("label", {}, column.label, select));
}

let order = cards.map((_, row) => row);

function addCondition() {
  const select = element("select", { "aria-label": "Measure" });
  select.append(...columns.filter((c) => c.key !== "neuron").map((c) => element("option", { value: c.key }, c.label)));
  const low = element("input", { type: "number", step: "any", className: "low" });
  const high = element("input", { type: "number", step: "any", className: "high" });
  const words = element("select", { className: "word", "aria-label": "Value" });
  const lowLabel = element("label", {}, "from", low);
  const highLabel = element("label", {}, "to", high);
  const condition = element("div", { className: "condition" }, element("label", {}, "Measure", select), lowLabel, highLabel, words);
  const adapt = () => {
    const column = COLUMN.get(select.value);
    const isNumber = column.kind === "number";
    lowLabel.hidden = highLabel.hidden = !isNumber;
    lowLabel.style.display = highLabel.style.display = isNumber ? "" : "none";
    words.hidden = isNumber;
    low.value = high.value = "";
    words.replaceChildren(element("option", { value: "" }, "all"));
    if (!isNumber) words.append(...options(column));
  };
  select.value = COLUMN.has("score") ? "score" : columns[0].key;
  select.addEventListener("change", adapt);
  adapt();
  byId("conditions").append(condition);
}

function choices(column) {
  return [...new Set(column.values)].sort();
}

function options(column) {
  return choices(column).map((value, i) => element("option", { value: i }, value || "–"));
}

function tests() {
  const all = [];
  const wanted = byId("search").value.trim().toLowerCase();
  if (wanted) all.push((row) => DATA.neurons[row].toLowerCase().includes(wanted));
  for (const select of document.querySelectorAll("select.filter")) {
    if (select.value === "") continue;
    const column = COLUMN.get(select.dataset.column);
    const word = choices(column)[Number(select.value)];
    all.push((row) => column.values[row] === word);
  }
  for (const condition of document.querySelectorAll(".condition")) {
    const column = COLUMN.get(condition.querySelector("select").value);
    if (column.kind === "number") {
      const [low, high] = [".low", ".high"].map((name) => condition.querySelector(name).valueAsNumber);
      if (!Number.isNaN(low)) all.push((row) => column.values[row] !== null && column.values[row] >= low);
      if (!Number.isNaN(high)) all.push((row) => column.values[row] !== null && column.values[row] <= high);
    } else {
      const { value } = condition.querySelector(".word");
      if (value !== "") {
        const word = choices(column)[Number(value)];
        all.push((row) => column.values[row] === word);
      }
    }
  }
  return all;
}

function sorted(rows) {
  const column = COLUMN.get(byId("sort").value);
  const sign = byId("descending").checked ? -1 : 1;
  if (!column) return sign < 0 ? rows.reverse() : rows;
  const { values } = column;
  const missing = (value) => value === null || value === "";
  return rows.sort((a, b) => {
    // What is not known comes last in both directions.
    if (missing(values[a]) || missing(values[b])) return missing(values[a]) - missing(values[b]) || a - b;
    const difference = column.kind === "number" ? values[a] - values[b] : values[a].localeCompare(values[b]);
    return sign * difference || a - b;
  });
}

function update() {
  const all = tests();
  order = sorted(cards.map((_, row) => row).filter((row) => all.every((test) => test(row))));
  const kept = new Set(order);
  cards.forEach(({ item }, row) => { item.hidden = !kept.has(row); });
  gallery.append(...order.map((row) => cards[row].item));
  byId("count").textContent = `${order.length} of ${COUNT} neurons`;
}

byId("sort").append(
  element("option", { value: "" }, "order of the run"),
  ...columns.map((column) => element("option", { value: column.key }, column.label)),
);
addCondition();
const isChosen = (node) => node.matches("select, [type=checkbox]");
byId("controls").addEventListener("change", (event) => { if (isChosen(event.target)) update(); });
byId("controls").addEventListener("input", (event) => { if (!isChosen(event.target)) update(); });
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("controls").addEventListener("reset", () => {
  byId("conditions").querySelectorAll(".condition").forEach((condition) => condition.remove());
  addCondition();
  setTimeout(update);
});
byId("add-condition").addEventListener("click", addCondition);
byId("play").addEventListener("click", () => setPlaying(!playing));

// ---- One neuron.

const dialog = byId("neuron");
let current = 0;

async function open(row) {
  current = row;
  const it = await record(row);
  if (current !== row) return;
  byId("neuron-title").textContent = DATA.neurons[row];
  for (const canvas of dialog.querySelectorAll("canvas")) moving.delete(canvas);
  const left = element("div");
  if (it === null) left.append(element("p", {}, "There is no stimulus of this neuron."));
  else left.append(...pictures(it));
  byId("neuron-body").replaceChildren(left, element("div", {}, element("h3", {}, "Measures"), measures(row)));
  const place = order.indexOf(row);
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place === order.length - 1;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function step(by) {
  const row = order[order.indexOf(current) + by];
  if (row !== undefined) open(row);
}

function measures(row) {
  const body = element("tbody");
  for (const column of columns) {
    const value = element("td", {}, shown(column, row) + (column.units && column.values[row] !== null ? ` ${column.units}` : ""));
    body.append(element("tr", { title: column.about || "" }, element("th", { scope: "row" }, column.label), value));
  }
  return element("table", {}, body);
}

function tile(caption, alt) {
  const canvas = element("canvas", { width, height, role: "img", "aria-label": alt });
  return [canvas, element("figure", {}, canvas, element("figcaption", {}, caption))];
}

function pictures(it) {
  const parts = [element("h3", {}, FRAMES > 1 ? "Movie" : "Image")];
  const views = [];
  if (channels.length > 1 && channels.length <= 3) views.push(["together", SHOWN_BY]);
  channels.forEach((name, c) => views.push([name, [[c, c, c]]]));
  const draws = [];
  const strip = element("div", { className: "tiles" });
  for (const [name, shownBy] of views) {
    const [canvas, figure] = tile(name, `Movie of the stimulus, ${name}`);
    draws.push((t) => drawFrame(canvas, it.movie, t, shownBy));
    strip.append(figure);
  }
  const slider = element("input", { type: "range", min: 0, max: FRAMES - 1, step: 1, "aria-label": "Frame" });
  const time = element("output", {});
  const draw = (t) => {
    for (const one of draws) one(t);
    slider.value = t;
    time.textContent = DATA.frameRate ? `${(t / DATA.frameRate).toFixed(2)} s` : `frame ${t}`;
  };
  slider.addEventListener("input", () => {
    const t = slider.valueAsNumber;
    if (playing) setPlaying(false);
    draw(t);
  });
  parts.push(strip);
  if (FRAMES > 1) {
    const button = element("button", { type: "button" }, "Play or pause");
    button.addEventListener("click", () => setPlaying(!playing));
    parts.push(element("div", { className: "frame" }, button, slider, time));
  }
  addMoving(strip.querySelector("canvas"), draw, it.peak);
  if (FRAMES > 1) {
    parts.push(element("h3", {}, "Space (share explained)"));
    const maps = element("div", { className: "tiles" });
    channels.forEach((name, c) => {
      const share = `${Math.round(100 * it.shares[c])} %`;
      const [canvas, figure] = tile(`${name} (${share})`, `First component of ${name} in space, which explains ${share}`);
      drawMap(canvas, it.spatial[c]);
      maps.append(figure);
    });
    parts.push(maps, element("h3", {}, "Time"));
    const seconds = (count, lost) => Array.from({ length: count }, (_, k) => (k + lost) / RATE);
    const unit = DATA.frameRate ? "time (s)" : "frame";
    parts.push(plot(channels.map((name, c) => ({ name, color: DATA.colors[c], x: seconds(FRAMES, 0), y: it.temporal[c] })),
      unit, "stimulus", "Course of the first component in time"));
    parts.push(element("h3", {}, "Response (shaded: objective)"));
    parts.push(plot([{ name: "response", color: DATA.responseColor, x: seconds(DATA.responseFrames, DATA.framesLost), y: it.response }],
      unit, "response", "Response to the stimulus over time"));
  }
  if (DATA.restarts > 1) {
    parts.push(element("h3", {}, "Starts"));
    const body = element("tbody");
    it.restarts.forEach((score, start) => body.append(element("tr", {}, element("th", { scope: "row" }, `start ${start + 1}`),
      element("td", {}, Number.isNaN(score) ? "given up early" : number(score)))));
    parts.push(element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "start"),
      element("th", { scope: "col" }, "score"))), body));
  }
  return parts;
}

function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const decade = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((k) => k * decade).find((k) => k >= rough);
  const all = [];
  for (let k = Math.ceil(low / size - 1e-9); k * size <= high + 1e-9 * size; k++) all.push(Number((k * size).toPrecision(6)));
  return all;
}

function plot(series, xLabel, yLabel, title) {
  const [wide, high, left, right, top, bottom] = [520, 170, 52, 10, series.length > 1 ? 18 : 8, 34];
  const svg = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const finite = series.flatMap((one) => one.y.filter(Number.isFinite));
  const [lowY, highY] = [Math.min(0, ...finite), Math.max(0, ...finite)];
  const edge = 0.5 / RATE;
  const highX = (FRAMES - 1) / RATE + edge;
  const x = (value) => left + ((value + edge) / (highX + edge)) * (wide - left - right);
  const y = (value) => high - bottom - ((value - lowY) / (highY - lowY || 1)) * (high - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${wide} ${high}`, class: "plot", role: "img", "aria-label": title });
  const [first, last] = DATA.window;
  root.append(svg("rect", { x: x(first / RATE - edge), y: top, width: x(last / RATE + edge) - x(first / RATE - edge),
    height: high - top - bottom, fill: "#e8e8e8" }));
  root.append(svg("line", { x1: left, x2: wide - right, y1: y(0), y2: y(0), stroke: "#b0b0b0" }));
  for (const value of ticks(lowY, highY)) {
    root.append(svg("line", { x1: left - 4, x2: left, y1: y(value), y2: y(value), stroke: "#333" }));
    root.append(svg("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, String(value).replace("-", "−")));
  }
  for (const value of ticks(0, highX)) {
    root.append(svg("line", { x1: x(value), x2: x(value), y1: high - bottom, y2: high - bottom + 4, stroke: "#333" }));
    root.append(svg("text", { x: x(value), y: high - bottom + 16, "text-anchor": "middle" }, String(value)));
  }
  root.append(svg("path", { d: `M${left} ${top}V${high - bottom}H${wide - right}`, fill: "none", stroke: "#333" }));
  root.append(svg("text", { x: (left + wide - right) / 2, y: high - 4, "text-anchor": "middle" }, xLabel));
  root.append(svg("text", { transform: `translate(12 ${(top + high - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
  series.forEach(({ name, color, x: xs, y: ys }, number) => {
    const points = xs.map((value, k) => [value, ys[k]]).filter(([, value]) => Number.isFinite(value));
    root.append(svg("polyline", { points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "), fill: "none",
      stroke: color, "stroke-width": 1.8 }));
    if (series.length > 1) {
      const label = svg("text", { x: left + 8 + 90 * number, y: 11 }, name);
      label.style.fill = color;
      label.style.fontWeight = "600";
      root.append(label);
    }
  });
  return root;
}

byId("close").addEventListener("click", () => dialog.close());
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  for (const canvas of dialog.querySelectorAll("canvas")) moving.delete(canvas);
  cards[current].button.focus();
});
dialog.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

update();
setPlaying(playing);
