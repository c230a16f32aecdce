// Writes what is known into the page. Texts of strangers enter as text nodes only, never as markup.

import {
  BAND, BATCH, DEPTH, ENDED_BY, HELP, INFERENCE, MAX_DEPTH, NUMBER, TOTAL, UNCERTAINTY, WAITING,
  drawChunk, drawDepth, drawLatency, drawSpark, drawUncertainty, short, slots, time,
} from "./charts.js";

export const $ = (id) => document.getElementById(id);
const PHASES = { autonomous: "policy acts", paused: "paused", correcting: "a person drives" };
const ENDED = { converged: "converged", max_depth: "maximum depth reached", deadline: "stopped by the deadline" };
const TABLE_ROWS = 12;
const BLANK = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E";  // until a picture comes

export function element(tag, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// How a connected robot stands, and why it came paused if it did.
function held(info) {
  return PHASES[info.phase] + (info.phase === "paused" && info.note ? `: ${info.note}` : "");
}

function write(id, text) {
  const target = $(id);
  if (target.textContent !== text) target.textContent = text;
}

export function showConnection(state, text) {
  $("connection").dataset.state = state;
  $("connection").lastElementChild.textContent = text;
  document.body.classList.toggle("stale", state !== "live");
  for (const button of $("controls").querySelectorAll("button")) button.disabled = state !== "live";
}

// The list of robots: running ones first, each group with the newest on top.
export class RobotList {
  constructor(choose) {
    this.choose = choose;
    this.items = new Map();
  }

  show(robots, chosen) {
    const all = [...robots.values()];
    const several = new Set(all.map((robot) => robot.info.policy)).size > 1;
    const sorted = all.sort((a, b) => b.info.connected - a.info.connected || b.order - a.order);
    for (const [name, item] of this.items) {
      if (!robots.has(name)) {
        item.row.remove();
        this.items.delete(name);
      }
    }
    sorted.forEach((robot, index) => {
      const item = this.items.get(robot.info.robot) ?? this.add(robot.info.robot);
      if ($("robots").children[index] !== item.row) $("robots").insertBefore(item.row, $("robots").children[index] ?? null);
      this.update(item, robot, several, robot.info.robot === chosen);
    });
    const running = all.filter((robot) => robot.info.connected).length;
    write("count", `${running} running`);
  }

  // On a phone the list scrolls sideways.
  reveal(name) {
    const row = this.items.get(name)?.row, all = $("robots");
    if (row) all.scrollLeft = row.offsetLeft - all.offsetLeft - (all.clientWidth - row.clientWidth) / 2;
  }

  add(name) {
    const image = element("img", { alt: "", src: BLANK });
    const title = element("span", { className: "name" });
    const line = element("span", { className: "line" });
    const spark = element("canvas");
    spark.setAttribute("aria-hidden", "true");
    const button = element("button", { type: "button" }, image, title, line, spark);
    button.onclick = () => this.choose(name);
    const item = { row: element("li", {}, button), button, image, title, line, spark };
    this.items.set(name, item);
    return item;
  }

  update(item, robot, several, isChosen) {
    const { info, rows, thumbnail } = robot;
    item.row.className = info.connected ? "" : "gone";
    item.button.setAttribute("aria-current", String(isChosen));
    const [head, ...rest] = info.robot.split(", ");  // an episode's setting and seed follow its task
    item.title.textContent = head;
    item.button.title = info.robot;
    const last = rows.at(-1);
    const words = [...rest];
    if (!info.connected) words.push(info.note || "gone");
    else if (info.phase !== "autonomous") words.push(held(info));
    if (last?.[HELP] && info.connected) words.push("asks for help");
    if (several) words.push(info.policy);
    if (last) words.push(`depth ${last[DEPTH]}/${last[MAX_DEPTH]}`);
    item.line.replaceChildren(...words.map((text) => element("span", { text })));
    if (thumbnail && item.thumbnail !== thumbnail) {
      item.image.src = `data:image/jpeg;base64,${thumbnail}`;
      item.thumbnail = thumbnail;
    }
    drawSpark(item.spark, rows);
  }
}

// Everything about the chosen robot.
export class Details {
  constructor() {
    this.marked = null;  // serial of the query under the pointer
    this.ranges = new Map();  // robot -> what its actions have covered, if their range is not known
    for (const id of ["depth-chart", "uncertainty-chart", "latency-chart"]) {
      $(id).addEventListener("pointermove", (event) => this.mark(slots($(id), this.rows ?? []).at(event.offsetX)));
      $(id).addEventListener("pointerleave", () => this.mark(null));
    }
  }

  mark(index) {
    this.marked = index;
    if (this.rows) this.histories();
  }

  show(robot) {
    const { info, rows, shown } = robot;
    this.rows = rows;
    write("instruction", shown?.instruction || info.instruction || "no query yet");
    const last = rows.at(-1);
    write("who", [info.robot, `policy ${info.policy}`, last ? `query ${last[NUMBER]}` : "no query yet"].join("  ·  "));
    this.phase(info);
    this.newest(last);
    if (shown?.actions) {
      this.cameras(shown.images);
      this.chunk(info.robot, shown);
    } else {
      $("cameras").replaceChildren();
      $("chunk").replaceChildren();
      write("chunk-caption", "");
    }
    this.histories();
    if ($("table").open) this.table();
  }

  phase(info) {
    const phase = $("phase");
    phase.dataset.phase = info.connected ? info.phase : "gone";
    phase.textContent = info.connected ? held(info) : info.note || "gone";
    const [pause, goOn, take] = $("controls").querySelectorAll("button");
    for (const button of [pause, goOn, take]) button.hidden = !info.connected;
    pause.hidden ||= info.phase === "paused";
    goOn.hidden ||= info.phase === "autonomous";
    goOn.textContent = info.phase === "correcting" ? "Give back" : "Go on";
    goOn.className = "strong";
    take.hidden ||= info.driver === "you" || !info.drivable;
    take.textContent = info.driver === "another" ? "Take over from another page" : "Take over";
    $("cause").hidden = !(info.connected && info.phase === "paused" && info.cause === "gate");
  }

  newest(last) {
    $("help").hidden = !last?.[HELP] || !$("cause").hidden;  // whoever is paused has asked already
    if (!last) {
      for (const id of ["depth", "uncertainty", "latency", "batch"]) [write(`${id}-now`, "–"), write(`${id}-text`, id)];
      return;
    }
    write("help", `The policy asks for help: its uncertainty ${short(last[UNCERTAINTY])} is above ${short(last[BAND])}.`);
    write("depth-now", `${last[DEPTH]} of ${last[MAX_DEPTH]}`);
    write("depth-text", `iterations, ${ENDED[last[ENDED_BY]] ?? last[ENDED_BY]}`);
    write("uncertainty-now", short(last[UNCERTAINTY]));
    write("uncertainty-text", last[BAND] === null ? "uncertainty, not calibrated" : `uncertainty, help above ${short(last[BAND])}`);
    write("latency-now", `${time(last[TOTAL])} ms`);
    write("latency-text", `${time(last[WAITING])} ms waiting, ${time(last[INFERENCE])} ms inference`);
    write("batch-now", String(last[BATCH]));
    write("batch-text", last[BATCH] === 1 ? "query in the batch" : "queries in the batch");
  }

  cameras(images) {
    const names = Object.keys(images), place = $("cameras");
    if ([...place.children].map((one) => one.dataset.camera).join("\n") !== names.join("\n")) {
      place.replaceChildren(...names.map((name) => {
        const figure = element("figure", {}, element("img", { alt: `camera ${name}` }), element("figcaption", { text: name }));
        figure.dataset.camera = name;
        return figure;
      }));
    }
    names.forEach((name, index) => {
      const image = place.children[index].firstElementChild, source = `data:image/jpeg;base64,${images[name]}`;
      if (image.src !== source) image.src = source;
    });
  }

  chunk(robot, shown) {
    const { actions, facts } = shown, count = actions[0]?.length ?? 0, place = $("chunk");
    while (place.children.length > count) place.lastElementChild.remove();
    while (place.children.length < count) {
      const canvas = element("canvas");
      canvas.setAttribute("role", "img");
      place.append(element("div", { className: "dimension" }, element("div", {}, element("b"), element("span")), canvas));
    }
    const steps = shown.execute_steps;
    write("chunk-caption", `${actions.length} actions, ${steps} of them executed before the next query`);
    for (let dimension = 0; dimension < count; dimension++) {
      const [head, canvas] = place.children[dimension].children;
      const name = facts.names[dimension] ?? `action ${dimension}`;
      head.firstElementChild.textContent = head.firstElementChild.title = name;
      head.lastElementChild.textContent = short(actions[0][dimension]);
      const [low, high] = this.range(robot, dimension, shown);
      canvas.setAttribute("aria-label", `${name}: from ${short(actions[0][dimension])} to ${short(actions[steps - 1]?.[dimension])} over the executed actions`);
      drawChunk(canvas, {
        actions, steps, previous: shown.previous, previousSteps: shown.previous_steps, dimension, low, high,
      });
    }
  }

  // The declared range, widened to what the actions have covered.
  range(robot, dimension, { actions, previous, facts }) {
    const key = `${dimension} ${robot}`;
    const [low, high] = this.ranges.get(key) ?? [facts.low[dimension] ?? Infinity, facts.high[dimension] ?? -Infinity];
    const values = [...actions, ...(previous ?? [])].map((action) => action[dimension]).filter((value) => value !== null);
    const range = [Math.min(low, ...values), Math.max(high, ...values)];
    this.ranges.set(key, range);
    return range;
  }

  histories() {
    const rows = this.rows, marked = this.marked;
    drawDepth($("depth-chart"), rows, marked);
    drawUncertainty($("uncertainty-chart"), rows, marked);
    drawLatency($("latency-chart"), rows, marked);
    const { shown } = slots($("depth-chart"), rows);
    $("band-legend").hidden = !shown.some((row) => row[BAND] !== null);
    $("help-legend").hidden = !shown.some((row) => row[HELP]);
    const row = marked === null ? null : shown[marked];
    write("reading", row ? sentence(row) : "");
    const last = shown.at(-1);
    for (const id of ["depth-chart", "uncertainty-chart", "latency-chart"]) {
      $(id).setAttribute("aria-label", last ? `the last ${shown.length} queries; the newest: ${sentence(last)}` : "no query yet");
    }
  }

  table() {
    const cells = (row) => [
      row[NUMBER], row[DEPTH], row[MAX_DEPTH], ENDED[row[ENDED_BY]] ?? row[ENDED_BY], short(row[UNCERTAINTY]),
      time(row[WAITING]), time(row[INFERENCE]), time(row[TOTAL]), row[BATCH],
    ];
    $("table").querySelector("tbody").replaceChildren(
      ...this.rows.slice(-TABLE_ROWS).reverse().map((row) => element("tr", {}, ...cells(row).map(
        (text, column) => element("td", { text: String(text), className: column === 3 ? "text" : "" }),
      ))),
    );
  }
}

function sentence(row) {
  return [
    `query ${row[NUMBER]}`,
    `depth ${row[DEPTH]} of ${row[MAX_DEPTH]}, ${ENDED[row[ENDED_BY]] ?? row[ENDED_BY]}`,
    `uncertainty ${short(row[UNCERTAINTY])}${row[HELP] ? ", help asked" : ""}`,
    `${time(row[TOTAL])} ms (${time(row[WAITING])} waiting, ${time(row[INFERENCE])} inference)`,
    `batch of ${row[BATCH]}`,
  ].join("  ·  ");
}
