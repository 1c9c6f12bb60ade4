// Draws the events of /events. Text enters the page by textContent alone.
"use strict";

const SILENT_MS = 6000;          // without any event the connection counts as lost, whatever the browser reports
const LAST_RETRY_MS = 8000;
const PICTURE_S = 30;
const FLOOR_DBFS = -80;
const SPEAK_MS = 6000;           // least time between two labels for screen readers
const HISTORY_MS = 300000;       // between two requests of the timeline; meanwhile events continue it
const LEAST_RANGE = 40;          // of the spectrogram's colours, in byte steps
const RANGES = [[0.25, "15 min"], [1, "1 h"], [6, "6 h"], [24, "24 h"], [168, "7 d"]];
const STOPS = {
  dark: [[17, 22, 33], [33, 44, 104], [26, 104, 142], [72, 186, 150], [252, 232, 132]],
  light: [[243, 246, 250], [187, 214, 238], [88, 140, 208], [72, 58, 152], [42, 12, 68]],
};

const byId = (id) => document.getElementById(id);
const isDark = matchMedia("(prefers-color-scheme: dark)");
const isStill = matchMedia("(prefers-reduced-motion: reduce)");
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const clock = (date, seconds) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });
const words = (label) => label.replaceAll("_", " ");

function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 360) / 10} h` : `${Math.round(seconds / 8640) / 10} d`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- colours of labels: neighbours in the model's list are far apart ---

const hues = new Map();

function colour(made, label) {
  const hue = hues.get(label);
  made.classList.toggle("grey", hue === undefined);
  if (hue !== undefined) made.style.setProperty("--h", hue);
  return made;
}

// --- now ---

const now = { label: null, since: 0, spoken: "", spokenAt: 0 };

function showDecision(decision) {
  if (decision.label !== now.label) {
    now.label = decision.label;
    now.since = performance.now();
    byId("label").textContent = words(decision.label);
  }
  const gated = decision.gated === true;
  const quiet = gated && !decision.top.length;
  byId("probability").textContent = quiet ? "" : percent(decision.probability);
  byId("since").textContent = gated && !quiet ? "too quiet to score; last label" : performance.now() - now.since < 1000 ? "just now" : `for ${span((performance.now() - now.since) / 1000)}`;
  const dbfs = decision.rms > 0 ? 20 * Math.log10(decision.rms) : -Infinity;
  byId("level").textContent = decision.rms > 0 ? `${dbfs.toFixed(1)} dBFS` : "silence";
  byId("level-bar").style.width = `${100 * Math.min(1, Math.max(0, 1 - dbfs / FLOOR_DBFS))}%`;
  showTop(decision.top);
  document.title = `${words(decision.label)} · edgekd`;
  speak(decision);
}

function showTop(top) {
  const list = byId("top");
  while (list.children.length > top.length) list.lastChild.remove();
  while (list.children.length < top.length) {
    const row = element("li");
    const track = element("div", "track");
    track.setAttribute("aria-hidden", "true");
    track.append(element("div", "bar hue"));
    row.append(element("span", "name"), element("span", "number"), track);
    list.append(row);
  }
  top.forEach(([label, probability], index) => {
    const [name, number, track] = list.children[index].children;
    name.textContent = words(label);
    number.textContent = percent(probability);
    colour(track.firstChild, label).style.width = `${100 * probability}%`;
  });
}

function speak(decision) {
  const time = performance.now();
  if (decision.label === now.spoken || time - now.spokenAt < SPEAK_MS || time - now.since < 1000) return;
  now.spoken = decision.label;
  now.spokenAt = time;
  byId("spoken").textContent = decision.top.length ? `${words(decision.label)}, ${percent(decision.probability)}` : words(decision.label);
}

// --- spectrogram ---

const picture = { bands: 0, columns: 0, raw: null, image: null, low: 40, high: 200, before: 0, total: 0, at: 0, hop: 500, drawing: false };

function sizePicture(sizes) {
  if (!sizes.bands) return;
  picture.bands = sizes.bands;
  picture.columns = Math.ceil(PICTURE_S / sizes.column_s);
  picture.raw = new Uint8Array(picture.bands * picture.columns);  // the newest column last
  picture.image = document.createElement("canvas");
  picture.image.width = picture.columns;
  picture.image.height = picture.bands;
}

function addColumns(text) {
  if (!picture.bands || !text) return;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).subarray(-picture.raw.length);
  picture.raw.copyWithin(0, bytes.length);
  picture.raw.set(bytes, picture.raw.length - bytes.length);
  const time = performance.now();
  if (picture.at) picture.hop += 0.3 * (Math.min(2000, time - picture.at) - picture.hop);
  picture.at = time;
  picture.before = bytes.length / picture.bands;
  paint();
  if (!picture.drawing) {
    picture.drawing = true;
    requestAnimationFrame(draw);
  }
}

function paint() {
  const { raw, bands, columns } = picture;
  const counts = new Uint32Array(256);
  for (const value of raw) counts[value] += 1;
  const known = raw.length - counts[0];
  if (known) {
    let seen = 0, low = 255, high = 1;
    for (let value = 1; value < 256; value += 1) {
      seen += counts[value];
      if (seen >= 0.1 * known && low === 255) low = value;
      if (seen <= 0.998 * known) high = value;
    }
    high = Math.max(high, low + LEAST_RANGE);
    const pace = known < raw.length / 4 ? 1 : 0.15;
    picture.low += pace * (low - picture.low);
    picture.high += pace * (high - picture.high);
  }
  const shades = palette(picture.low, picture.high);
  const context = picture.image.getContext("2d");
  const image = context.createImageData(columns, bands);
  const pixels = new Uint32Array(image.data.buffer);
  for (let column = 0; column < columns; column += 1)
    for (let band = 0; band < bands; band += 1) pixels[(bands - 1 - band) * columns + column] = shades[raw[column * bands + band]];
  context.putImageData(image, 0, 0);
}

function palette(low, high) {
  const stops = isDark.matches ? STOPS.dark : STOPS.light;
  const shades = new Uint32Array(256);  // little-endian ABGR; 0, nothing, stays clear
  for (let value = 1; value < 256; value += 1) {
    const place = Math.min(0.9999, Math.max(0, (value - low) / (high - low))) * (stops.length - 1);
    const [from, to] = [stops[Math.floor(place)], stops[Math.floor(place) + 1]];
    const [red, green, blue] = from.map((part, index) => Math.round(part + (place % 1) * (to[index] - part)));
    shades[value] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
  return shades;
}

function draw() {
  const canvas = byId("picture");
  const width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const come = isStill.matches ? 1 : Math.min(1, (performance.now() - picture.at) / picture.hop);  // new columns slide in over a hop
  const shift = (1 - come) * picture.before * width / picture.columns;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = true;
  context.drawImage(picture.image, shift, 0, width, height);
  picture.drawing = come < 1;
  if (picture.drawing) requestAnimationFrame(draw);
}

// --- timeline ---

const UNSELECTED = "Select a part to see when it was.";
const past = { slotS: 10, runs: [], now: 0, at: 0, hours: null, asked: 0 };  // hours: shown; null before one is chosen

const slotNow = () => past.now + (performance.now() - past.at) / 1000 / past.slotS;
const timeOf = (slot) => new Date(Date.now() - 1000 * past.slotS * (slotNow() - slot));

async function askHistory() {
  past.asked = performance.now();
  const response = await fetch("history.json");
  if (!response.ok) return;
  const data = await response.json();
  Object.assign(past, { slotS: data.slot_s, now: data.now, at: performance.now(),
    runs: data.runs.map(([first, count, label]) => [first, count, data.labels[label]]) });
  offerRanges(data.hours);
  showTimeline();
}

function continueTimeline(label) {
  if (!past.at) return;
  const slot = Math.floor(slotNow());
  const last = past.runs.at(-1);
  if (last && slot < last[0] + last[1]) return;
  if (last && last[2] === label && slot === last[0] + last[1]) last[1] += 1;
  else past.runs.push([slot, 1, label]);
  if (performance.now() - past.asked > HISTORY_MS) askHistory().catch(() => undefined);
  showTimeline();
}

function offerRanges(hours) {
  const offered = RANGES.filter(([range], index) => index === 0 || range <= hours || RANGES[index - 1][0] < hours);
  const box = byId("ranges");
  if (box.querySelectorAll("input").length === offered.length) return;
  box.querySelectorAll("label").forEach((label) => label.remove());
  const known = past.runs.length ? (past.now - past.runs[0][0]) * past.slotS / 3600 : 0;
  past.hours ??= (offered.find(([range]) => range >= known) ?? offered.at(-1))[0];
  for (const [range, text] of offered) {
    const choice = element("label"), input = element("input");
    Object.assign(input, { type: "radio", name: "range", checked: range === past.hours });
    input.addEventListener("change", () => {
      past.hours = range;
      byId("detail").textContent = UNSELECTED;
      byId("detail").classList.add("quiet");
      showTimeline();
    });
    choice.append(input, element("span", "", text));
    box.append(choice);
  }
}

// Splits the time shown into equal parts with the label shown longest in each; equal neighbours are one segment.
function segments(width) {
  const slots = 3600 * past.hours / past.slotS, end = Math.floor(slotNow()) + 1, begin = end - slots;
  const parts = Math.max(1, Math.min(Math.round(slots), Math.floor(width / 7)));
  const shares = Array.from({ length: parts }, () => new Map()), totals = new Map();
  for (const [first, count, label] of past.runs) {
    for (let slot = Math.max(first, Math.ceil(begin)); slot < first + count; slot += 1) {
      const share = shares[Math.min(parts - 1, Math.floor((slot - begin) * parts / slots + 1e-6))];
      share.set(label, (share.get(label) ?? 0) + 1);
      totals.set(label, (totals.get(label) ?? 0) + 1);
    }
  }
  const found = [];
  shares.forEach((share, part) => {
    const label = [...share].reduce((best, entry) => (entry[1] > best[1] ? entry : best), [null, 0])[0];
    const last = found.at(-1);
    if (last && last.label === label) last.count += 1;
    else found.push({ label, first: part, count: 1 });
  });
  return { parts, begin, each: slots / parts, found: found.filter(({ label }) => label !== null), totals };
}

function showTimeline() {
  const strip = byId("strip");
  if (strip.contains(document.activeElement)) return;  // keep the segment that has the focus
  const { parts, begin, each, found, totals } = segments(strip.clientWidth);
  strip.replaceChildren(...found.map(({ label, first, count }) => {
    const button = colour(element("button", "segment"), label);
    const width = count / parts * strip.clientWidth;
    button.type = "button";
    button.tabIndex = -1;
    button.style.left = `${100 * first / parts}%`;
    button.style.width = `max(2px, calc(${100 * count / parts}% - 1px))`;
    if (width > 9 * words(label).length + 12) {
      button.textContent = words(label);
      button.classList.add("named");
    }
    const from = timeOf(begin + first * each), to = new Date(Math.min(Date.now(), timeOf(begin + (first + count) * each)));
    const text = `${words(label)}, ${clock(from, true)} to ${clock(to, true)}`;
    button.setAttribute("aria-label", text);
    button.title = text;
    return button;
  }));
  if (strip.lastChild) strip.lastChild.tabIndex = 0;
  byId("strip-from").textContent = clock(timeOf(begin), false);
  const shown = [...totals].sort((one, other) => other[1] - one[1]);
  const all = shown.reduce((sum, [, count]) => sum + count, 0);
  byId("legend").replaceChildren(...shown.slice(0, 8).map(([label, count]) => {
    const row = element("li");
    row.append(colour(element("span", "swatch hue"), label), element("span", "", words(label)),
      element("span", "quiet number", percent(count / all)));
    return row;
  }));
  if (shown.length > 8) byId("legend").append(element("li", "quiet", `and ${shown.length - 8} more`));
}

function select(button) {
  const strip = byId("strip");
  for (const other of strip.children) {
    other.tabIndex = other === button ? 0 : -1;
    other.setAttribute("aria-pressed", String(other === button));
  }
  byId("detail").textContent = button.getAttribute("aria-label");
  byId("detail").classList.remove("quiet");
}

function moveAlongStrip(event) {
  const all = [...byId("strip").children], at = all.indexOf(document.activeElement);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  all[Math.min(all.length - 1, Math.max(0, to))].focus();
}

// --- health and model ---

const STATES = { HEALTHY: ["good", "Healthy"], RECOVERING: ["warn", "Recovering"], FAILED: ["bad", "Failed"] };
let drops = 0;

function describe(list, rows) {
  byId(list).replaceChildren(...rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value, bad]) => {
    const row = element("div");
    row.append(element("dt", "", name), element("dd", bad ? "bad" : "", value));
    return row;
  }));
}

function showPill(state, text) {
  byId("health").dataset.state = state;
  if (byId("health-text").textContent !== text) byId("health-text").textContent = text;
}

function showVitals(vitals) {
  const [kind, name] = STATES[vitals.state];
  const errors = Object.entries(vitals.troubles);
  if (kind !== "good") showPill(kind, vitals.reason ? `${name}: ${vitals.reason}` : name);
  else if (vitals.age === null) showPill("waiting", "Waiting for the first decision");
  else if (!vitals.fresh) showPill("warn", `No decision for ${span(vitals.age)}`);
  else if (errors.length) showPill("warn", `Listening; error in ${errors.map(([output]) => output).join(", ")}`);
  else showPill(kind, name);
  describe("vitals", [
    ["Source", vitals.reason ? `${name}: ${vitals.reason}` : name, kind === "bad"],
    ["Last decision", vitals.age === null ? "none yet" : vitals.fresh ? "just now" : `${span(vitals.age)} ago`, !vitals.fresh && vitals.age !== null],
    ["Real-time factor", vitals.factor === null ? null : `${vitals.factor.toFixed(3)} (${percent(vitals.factor)} of a core)`, vitals.factor > 1],
    ["Samples dropped", drops.toLocaleString("en")],
    ["Reconnections", vitals.restarts],
    ["Overflows", vitals.overflows],
    ["Memory", vitals.resident === null ? null : `${(vitals.resident / 1e6).toFixed(0)} MB`],
    ...errors.map(([output, error]) => [`Output ${output}`, error, true]),
  ]);
}

async function askModel() {
  const response = await fetch("model.json");
  if (response.status === 401) location.reload();  // shows the login page
  const model = response.ok ? await response.json() : null;
  if (model === null) return;
  model.labels.forEach((label, index) => hues.set(label, Math.round(index * 137.508) % 360));
  byId("model-name").textContent = model.name;
  const { provenance, counts } = model;
  const scores = Object.entries(provenance.scores).filter(([name]) => name.endsWith("_accuracy"));
  describe("model", [
    ["Name", model.name],
    ["Network", `${model.student}, ${model.precision}`],
    ["Size", `${counts.params.toLocaleString("en")} parameters, ${counts.param_bytes.toLocaleString("en")} bytes`],
    ["Work", `${(counts.macs / 1e6).toFixed(1)} million multiply-adds a window`],
    ["Input", `${model.window_s.toLocaleString("en")} s at ${model.sample_rate.toLocaleString("en")} Hz, ${model.n_mels} × ${model.frames} log-mel`],
    ["Trained on", provenance.synthetic ? `${provenance.data} (synthetic)` : provenance.data],
    ["Licence of the data", provenance.data_licence],
    ["Teachers", provenance.teachers.join(", ") || "none"],
    ["Accuracy", scores.map(([name, value]) => `${words(name.replace("_accuracy", ""))} ${percent(value)}`).join(", ")],
    ["Calibration error", model.calibration_error === null ? "not calibrated" : percent(model.calibration_error)],
    ["Made", `${provenance.created.slice(0, 10)} by edgekd ${provenance.edgekd_version}`],
  ]);
  byId("labels").hidden = false;
  byId("labels").firstElementChild.textContent = `${model.labels.length} labels`;
  byId("labels").lastElementChild.textContent = model.labels.map(words).join(", ");
  byId("low").textContent = `${model.f_min.toLocaleString("en")} Hz`;
  byId("high").textContent = `${(model.f_max / 1000).toLocaleString("en")} kHz`;
}

// --- connection ---

const line = { source: null, heardAt: 0, lastAt: null, retryMs: 500, timer: 0 };

function eventArrived() {
  line.heardAt = performance.now();
  line.lastAt = new Date();
  line.retryMs = 500;
  if (document.body.classList.contains("offline")) {
    document.body.classList.remove("offline");
    byId("banner").hidden = true;
  }
}

function lost() {
  line.source?.close();
  line.source = null;
  document.body.classList.add("offline");
  showPill("bad", "No connection");
  describe("vitals", [["Connection", line.lastAt === null ? "none" : `none since ${clock(line.lastAt, true)}`, true]]);
  byId("banner").textContent = line.lastAt === null ? "No connection to edgekd. Trying again."
    : `No connection to edgekd. What is shown is of ${clock(line.lastAt, true)}. Trying again.`;
  byId("banner").hidden = false;
  clearTimeout(line.timer);
  line.timer = setTimeout(connect, line.retryMs);
  line.retryMs = Math.min(LAST_RETRY_MS, 2 * line.retryMs);
}

function connect() {
  clearTimeout(line.timer);
  if (document.hidden || line.source) return;
  const source = new EventSource("events");
  const on = (kind, act) => source.addEventListener(kind, (event) => {
    eventArrived();
    act(JSON.parse(event.data));
  });
  line.source = source;
  line.heardAt = performance.now();
  on("snapshot", (data) => {
    sizePicture(data);
    addColumns(data.columns);
    take(data);
    askModel().then(() => data.decision && showTop(data.decision.top)).then(askHistory).catch(() => undefined);
  });
  on("model", (sizes) => {
    sizePicture(sizes);
    askModel().then(askHistory).catch(() => undefined);
  });
  on("decision", (data) => {
    addColumns(data.columns);
    take(data);
    continueTimeline(data.decision.label);
  });
  on("change", take);
  on("beat", take);
  source.onerror = () => {
    if (line.source === source) {
      askModel().catch(() => undefined);  // if a token is needed now, this loads the login page
      lost();
    }
  };
}

function take(data) {
  if (data.decision) {
    drops = data.decision.drops;
    showDecision(data.decision);
  }
  showVitals(data);
}

setInterval(() => {
  if (line.source && performance.now() - line.heardAt > SILENT_MS) lost();
}, 1000);
document.addEventListener("visibilitychange", () => {  // a hidden page draws nothing
  if (document.hidden) {
    line.source?.close();
    line.source = null;
  } else connect();
});
const redraw = () => {
  if (picture.bands) {
    paint();
    draw();
  }
  showTimeline();
};
isDark.addEventListener("change", redraw);
addEventListener("resize", redraw);
byId("strip").addEventListener("keydown", moveAlongStrip);
byId("strip").addEventListener("focusin", (event) => select(event.target));
byId("strip").addEventListener("click", (event) => event.target.focus?.());
connect();
