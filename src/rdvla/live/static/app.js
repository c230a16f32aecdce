// Keeps what the server tells, and draws it at most once per frame of the screen.

import { SERIAL, readColours } from "./charts.js";
import { Connection } from "./connection.js";
import { Drive } from "./drive.js";
import { $, Details, RobotList, showConnection } from "./view.js";

const HISTORY = 240;  // queries that are kept of a robot
const LINGER = 1500;  // ms for which the end of an episode stays before the next one is shown

const robots = new Map();  // name -> {info, rows, shown, thumbnail, order}
let chosen = null;
let orders = 0;
let dirty = false;
let reveal = false;  // whether the list has to scroll to the chosen robot
let follow = null;  // timer

const connection = new Connection({
  state(state, text) {
    showConnection(state, text);
    if (state !== "live") drive.stop();
  },
  hello(message) {
    $("key").hidden = true;
    $("title").textContent = message.title;
    document.title = message.title ? `rdvla live: ${message.title}` : "rdvla live";
    robots.clear();  // the server may be another by now; it tells everything anew
    if (chosen !== null) connection.send({ watch: chosen });
    redraw();
  },
  message(message) {
    if (message.type === "news") takeNews(message);
    if (message.type === "error" && (message.about !== "steer" || drive.robot !== null)) showProblem(message.text);
  },
  keyNeeded(problem) {
    showConnection("closed", "not connected");
    $("key").hidden = false;
    $("empty").hidden = $("layout").hidden = true;
    $("key-problem").textContent = problem;
    $("key-value").focus();
  },
});
const list = new RobotList((name) => choose(name));
const details = new Details();
const drive = new Drive((message) => connection.send(message));

function takeNews(message) {
  for (const info of message.robots) {
    const robot = robots.get(info.robot) ?? { rows: [], order: orders++ };
    if (robot.info?.connected === false && info.connected) robot.order = orders++;
    robot.info = info;
    robots.set(info.robot, robot);
  }
  for (const name of message.removed) robots.delete(name);
  for (const [name, rows] of Object.entries(message.rows)) addRows(name, rows);
  for (const [name, picture] of Object.entries(message.thumbnails ?? {})) {
    if (robots.has(name)) robots.get(name).thumbnail = picture;
  }
  const { shown } = message;
  if (shown && robots.has(shown.robot)) {
    if (shown.rows) addRows(shown.robot, shown.rows);
    robots.get(shown.robot).shown = shown;
  }
  chooseIfNone();
  redraw();
}

function addRows(name, rows) {
  const robot = robots.get(name);
  if (!robot) return;
  const first = rows[0][SERIAL];
  robot.rows = [...robot.rows.filter((row) => row[SERIAL] < first), ...rows].slice(-HISTORY);
}

function newestRunning() {
  return [...robots.values()].filter((robot) => robot.info.connected).sort((a, b) => b.order - a.order)[0];
}

function chooseIfNone() {
  const robot = robots.get(chosen);
  const other = newestRunning();
  if (!robot) {
    const any = other ?? [...robots.values()].at(-1);
    if (any) choose(any.info.robot);
    return;
  }
  robot.ran ||= robot.info.connected;
  if (!robot.info.connected && robot.ran && other && $("follow").checked && follow === null) {
    const left = chosen;
    follow = setTimeout(() => {
      follow = null;
      if (chosen === left && $("follow").checked && newestRunning()) choose(newestRunning().info.robot);
    }, LINGER);
  }
}

function choose(name) {
  chosen = name;
  reveal = true;
  const robot = robots.get(name);
  if (robot) robot.ran = robot.info.connected;  // whoever looks at an end stays there
  connection.send({ watch: name });
  showProblem("");
  redraw();
}

function showProblem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text;
}

function redraw() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => {
    dirty = false;
    draw();
  });
}

function draw() {
  if (!$("key").hidden) return;
  $("empty").hidden = robots.size > 0;
  $("layout").hidden = robots.size === 0;
  const robot = robots.get(chosen);
  drive.update(robot);
  if (!robot) return;
  list.show(robots, chosen);
  if (reveal) {
    list.reveal(chosen);
    reveal = false;
  }
  details.show(robot);
}

$("controls").addEventListener("click", (event) => {
  const phase = event.target.dataset?.phase;
  if (event.target instanceof HTMLButtonElement && phase) {
    showProblem("");
    if (phase === "correcting") drive.enter();
    else drive.leave();
    connection.send({ robot: chosen, phase });
  }
});
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  connection.useKey($("key-value").value);
  $("key-value").value = "";
});
$("table").addEventListener("toggle", redraw);
$("follow").addEventListener("change", redraw);
new ResizeObserver(redraw).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColours();
  redraw();
});
readColours();
connection.open();
