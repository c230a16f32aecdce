// Charts on canvases. Rows are arrays, as `messages.row_message` of the server writes them.

export const [SERIAL, NUMBER, TIME, DEPTH, MAX_DEPTH, ENDED_BY, UNCERTAINTY, BAND, HELP, WAITING, INFERENCE,
  TOTAL, BATCH] = Array(13).keys();

const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const LEFT = 34;  // pixels for the numbers of the vertical axis
const TOP = 8;
const BOTTOM = 18;
const SLOT = 6;  // pixels of a query at most; narrow screens show fewer queries, not thinner bars
let colours = {};

// Read the page's colours again, after the scheme has changed.
export function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ink", "muted", "grid", "panel", "bad", "converged", "max-depth", "deadline",
    "uncertainty", "band", "waiting", "inference", "rest", "executed", "previous"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

// A canvas in device pixels with CSS pixels as its unit; null while it is not laid out.
function prepare(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
  if (!width || !height) return null;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = FONT;
  context.lineWidth = 1;
  context.setLineDash([]);
  return { context, width, height };
}

// Which rows a history of this width shows, and where.
export function slots(canvas, rows) {
  const width = canvas.clientWidth - LEFT - 2;
  const shown = rows.slice(-Math.max(1, Math.floor(width / SLOT)));
  const x = (index) => LEFT + index * SLOT;
  const at = (position) => Math.min(shown.length - 1, Math.max(0, Math.floor((position - LEFT) / SLOT)));
  return { shown, x, at };
}

function frame({ context, width, height }, [low, top], ticks, format) {
  const y = (value) => height - BOTTOM - ((value - low) / (top - low)) * (height - TOP - BOTTOM);
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of ticks) {
    const line = Math.round(y(tick)) + 0.5;
    context.strokeStyle = colours.grid;
    line_(context, LEFT, line, width, line);
    context.fillStyle = colours.muted;
    context.fillText(format(tick), LEFT - 7, line);
  }
  return y;
}

function line_(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

// Query numbers under the chart, and a mark where an episode begins.
function numbersBelow({ context, width, height }, { shown, x }, marked) {
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  let free = LEFT;
  shown.forEach((row, index) => {
    const begins = row[NUMBER] === 0 && index > 0;
    if (begins) {
      context.strokeStyle = colours.muted;
      context.setLineDash([2, 3]);
      line_(context, x(index) - 0.5, TOP, x(index) - 0.5, height - BOTTOM);
      context.setLineDash([]);
    }
    const text = String(row[NUMBER]);
    if ((begins || row[NUMBER] % 10 === 0) && x(index) >= free && x(index) + 24 < width) {
      context.fillStyle = colours.muted;
      context.fillText(text, x(index), height - 5);
      free = x(index) + context.measureText(text).width + 14;
    }
  });
  if (marked !== null && marked < shown.length) {
    context.strokeStyle = colours.ink;
    const middle = x(marked) + SLOT / 2;
    line_(context, middle, TOP - 6, middle, height - BOTTOM);
  }
}

export function drawDepth(canvas, rows, marked) {
  const area = prepare(canvas);
  if (!area) return;
  const { context } = area, places = slots(canvas, rows), { shown, x } = places;
  const top = depthTop(shown);
  const y = frame(area, [0, top], [0, top / 2, top], String);
  shown.forEach((row, index) => bar(context, row[ENDED_BY], x(index) + 0.5, y(row[DEPTH]), SLOT - 2, y(0)));
  numbersBelow(area, places, marked);
}

// The end of the axis of depths: an even number above all of them, which may be far from the maximum.
function depthTop(shown) {
  const most = Math.max(2, ...shown.map((row) => row[DEPTH]));
  return most + (most % 2);
}

function bar(context, endedBy, left, top, width, bottom) {
  const name = { converged: "converged", max_depth: "max-depth" }[endedBy] ?? "deadline";
  context.fillStyle = context.strokeStyle = colours[name];
  if (name !== "deadline") {
    context.fillRect(left, top, width, bottom - top);
    return;
  }
  context.strokeRect(left + 0.5, top + 0.5, width - 1, bottom - top - 1);
  for (let at = bottom - 2; at > top + 2; at -= 4) line_(context, left, at, left + width, at - 3);
}

export function drawUncertainty(canvas, rows, marked) {
  const area = prepare(canvas);
  if (!area) return;
  const { context } = area, places = slots(canvas, rows), { shown, x } = places;
  const known = shown.flatMap((row) => [row[UNCERTAINTY], row[BAND]]).filter((value) => value !== null);
  const top = niceTop(Math.max(1e-9, ...known)), least = Math.min(0, ...known);
  const low = least < 0 ? -niceTop(-least) : 0;
  const y = frame(area, [low, top], low ? [low, 0, top] : [0, top / 2, top], short);
  context.strokeStyle = colours.band;
  context.setLineDash([5, 3]);
  trace(context, shown, x, (row) => (row[BAND] === null ? null : y(row[BAND])), true);
  context.setLineDash([]);
  context.strokeStyle = colours.uncertainty;
  context.lineWidth = 1.8;
  trace(context, shown, x, (row) => (row[UNCERTAINTY] === null ? null : y(row[UNCERTAINTY])), false);
  context.lineWidth = 1;
  context.fillStyle = colours.bad;
  shown.forEach((row, index) => {
    if (row[HELP] && row[UNCERTAINTY] !== null) triangle(context, x(index) + SLOT / 2, y(row[UNCERTAINTY]));
  });
  numbersBelow(area, places, marked);
}

// A line over the queries that breaks where a value is missing and where an episode begins.
function trace(context, shown, x, height, steps) {
  context.beginPath();
  let open = false;
  shown.forEach((row, index) => {
    const at = height(row);
    if (at === null) {
      open = false;
      return;
    }
    const begins = !open || row[NUMBER] === 0;
    if (steps) {
      if (begins) context.moveTo(x(index), at);
      context.lineTo(x(index), at);
      context.lineTo(x(index) + SLOT, at);
    } else if (begins) {
      context.moveTo(x(index) + SLOT / 2 - 1, at);
      context.lineTo(x(index) + SLOT / 2, at);
    } else {
      context.lineTo(x(index) + SLOT / 2, at);
    }
    open = true;
  });
  context.stroke();
}

function triangle(context, x, y) {
  context.beginPath();
  context.moveTo(x, y - 6);
  context.lineTo(x + 5, y + 3);
  context.lineTo(x - 5, y + 3);
  context.fill();
}

export function drawLatency(canvas, rows, marked) {
  const area = prepare(canvas);
  if (!area) return;
  const { context } = area, places = slots(canvas, rows), { shown, x } = places;
  const top = niceTop(Math.max(1, ...shown.map((row) => row[TOTAL] ?? 0)));
  const y = frame(area, [0, top], [0, top / 2, top], short);
  shown.forEach((row, index) => {
    const waiting = row[WAITING] ?? 0, inference = row[INFERENCE] ?? 0;
    const rest = Math.max(0, (row[TOTAL] ?? 0) - waiting - inference);
    let base = 0;
    for (const [value, name] of [[waiting, "waiting"], [inference, "inference"], [rest, "rest"]]) {
      context.fillStyle = colours[name];
      context.fillRect(x(index) + 0.5, y(base + value), SLOT - 2, y(base) - y(base + value));
      base += value;
    }
  });
  numbersBelow(area, places, marked);
}

// One dimension of a chunk; `low` and `high` are the vertical range.
export function drawChunk(canvas, { actions, steps, previous, previousSteps, dimension, low, high }) {
  const area = prepare(canvas);
  if (!area) return;
  const { context, width, height } = area;
  const before = previous ? Math.min(previousSteps, previous.length) : 0;
  const span = Math.max(1, before + actions.length - 1);
  const x = (step) => 3 + ((step + before) / span) * (width - 6);
  const y = (value) => height - 4 - ((value - low) / (high - low || 1)) * (height - 8);
  context.fillStyle = colours.grid;
  context.globalAlpha = 0.45;
  context.fillRect(x(0), 0, x(Math.min(steps, actions.length) - 1) - x(0), height);
  context.globalAlpha = 1;
  if (low < 0 && high > 0) {
    context.strokeStyle = colours.grid;
    line_(context, 0, Math.round(y(0)) + 0.5, width, Math.round(y(0)) + 0.5);
  }
  const curve = (values, first, last, shift) => {
    context.beginPath();
    for (let step = first; step <= last; step++) {
      const value = values[step][dimension];
      if (value !== null) context.lineTo(x(step - shift), y(value));
    }
    context.stroke();
  };
  context.lineJoin = "round";
  if (previous) {
    context.strokeStyle = colours.previous;
    context.lineWidth = 1.5;
    curve(previous, 0, previous.length - 1, before);
  }
  context.strokeStyle = colours.executed;
  context.lineWidth = 1.4;
  context.setLineDash([2, 3]);
  curve(actions, Math.max(0, steps - 1), actions.length - 1, 0);
  context.setLineDash([]);
  context.lineWidth = 2.4;
  curve(actions, 0, Math.min(steps, actions.length) - 1, 0);
  if (steps === 1 && actions[0][dimension] !== null) {
    context.fillStyle = colours.executed;
    context.beginPath();
    context.arc(x(0), y(actions[0][dimension]), 2.4, 0, 7);
    context.fill();
  }
}

// Depths of the newest queries, for the list of robots.
export function drawSpark(canvas, rows) {
  const area = prepare(canvas);
  if (!area) return;
  const { context, width, height } = area;
  const shown = rows.slice(-Math.floor(width / 4));
  const top = depthTop(shown);
  shown.forEach((row, index) => {
    const tall = Math.max(1, (row[DEPTH] / top) * height);
    bar(context, row[ENDED_BY], index * 4, height - tall, 3, height);
  });
}

export function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? 10 * power;
}

// Milliseconds: tenths matter only if there are few.
export function time(value) {
  if (value === null || value === undefined) return "–";
  return value < 9.95 ? value.toFixed(1) : String(Math.round(value));
}

// A number as people read it: three digits.
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}
