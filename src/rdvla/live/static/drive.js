// A person drives: keys, buttons and a gamepad become actions, which are sent until the robot is given back.

import { $, element } from "./view.js";
import { short } from "./charts.js";

const PAIRS = [  // keys for more and less of each action dimension but the gripper, as KeyboardEvent.code
  ["KeyD", "KeyA"], ["KeyW", "KeyS"], ["KeyR", "KeyF"], ["KeyL", "KeyJ"], ["KeyI", "KeyK"], ["KeyO", "KeyU"],
  ["ArrowRight", "ArrowLeft"],
  ["Digit2", "Digit1"], ["Digit4", "Digit3"], ["Digit6", "Digit5"], ["Digit8", "Digit7"], ["Digit0", "Digit9"],
  ["Period", "Comma"],
];
const GRIPPER_KEYS = ["ArrowUp", "ArrowDown"];  // the same for every arm
const SIGNS = { ArrowUp: "↑", ArrowDown: "↓", ArrowRight: "→", ArrowLeft: "←", Period: ".", Comma: "," };
const PAD = [  // the same for a standard gamepad: an axis and its sign, or two buttons
  { axis: 0, sign: 1, name: "left stick, sideways" }, { axis: 1, sign: -1, name: "left stick, up and down" },
  { axis: 3, sign: -1, name: "right stick, up and down" }, { axis: 2, sign: 1, name: "right stick, sideways" },
  { more: 12, less: 13, name: "cross, up and down" }, { more: 15, less: 14, name: "cross, sideways" },
  { more: 7, less: 6, name: "lower shoulder buttons" },
];
const GRIPPER_PAD = { more: 5, less: 4, name: "upper shoulder buttons" };
const DEAD = 0.12;  // of a stick's way
const FASTEST = 20;  // commands per second at most
const SLOWEST = 5;  // the server forgets a command after half a second
const SPEEDS = [0.25, 0.5, 1];
const MODIFIERS = ["Control", "Meta", "Alt", "AltGraph"];  // while one is held, browsers may not tell of a key's release

export class Drive {
  constructor(send) {
    this.send = send;
    this.robot = null;
    this.left = null;  // the robot that was given back, until the server knows
    this.pressed = new Set();  // codes of keys, and "+2" or "-2" of buttons
    this.speed = 0.5;
    this.timer = null;
    window.addEventListener("keydown", (event) => this.key(event, true));
    window.addEventListener("keyup", (event) => this.key(event, false));
    window.addEventListener("blur", () => this.pressed.clear());
    document.addEventListener("visibilitychange", () => this.pressed.clear());
  }

  // Call with every change: starts, goes on or stops, as the robot's driver is this page or not.
  update(robot) {
    const mine = robot?.info.connected && robot.info.driver === "you" && robot.shown?.facts.low.length > 0;
    if (!mine) {
      this.left = null;
      this.stop();
      return;
    }
    if (this.left === robot.info.robot) return;
    if (this.robot !== robot.info.robot) this.start(robot);
  }

  start(robot) {
    this.stop();
    const { facts, actions } = robot.shown;
    this.robot = robot.info.robot;
    this.facts = facts;
    this.values = facts.low.map((low, index) => {
      const resting = Math.min(Math.max(0, low), facts.high[index]);
      return facts.held[index] ? Math.min(Math.max(actions?.[0]?.[index] ?? resting, low), facts.high[index]) : resting;
    });
    const gripper = facts.names.findLastIndex((name) => name.includes("gripper"));
    const others = [...facts.low.keys()].filter((index) => index !== gripper);
    this.keys = facts.low.map((_, index) => (index === gripper ? GRIPPER_KEYS : PAIRS[others.indexOf(index)] ?? []));
    this.pad = facts.low.map((_, index) => (index === gripper ? GRIPPER_PAD : PAD[others.indexOf(index)]));
    this.build();
    const rate = Math.max(SLOWEST, Math.min(facts.control_hz ?? FASTEST, FASTEST));
    this.before = performance.now();
    this.timer = setInterval(() => this.tick(), 1000 / rate);
  }

  // The person ends it, or hands over: nothing is sent while the server has not confirmed it.
  leave() {
    this.left = this.robot;
    this.stop();
  }

  // The person wants to drive, perhaps again.
  enter() {
    this.left = null;
  }

  stop() {
    clearInterval(this.timer);
    this.pressed.clear();
    this.robot = null;
    $("drive").hidden = true;
  }

  build() {
    this.rows = this.facts.low.map((low, index) => this.row(index, low, this.facts.high[index]));
    const speeds = element("fieldset", { className: "speed" }, element("legend", { text: "speed" }), ...SPEEDS.map((speed) => {
      const input = element("input", { type: "radio", name: "speed", value: String(speed), checked: speed === this.speed });
      input.onchange = () => { this.speed = speed; };
      return element("label", {}, input, `${100 * speed} %`);
    }));
    this.padName = element("span", { className: "caption" });
    $("drive").replaceChildren(
      element("div", { className: "bar" }, element("h3", { text: "You drive" }), speeds),
      element("div", { className: "dimensions" }, ...this.rows.map((row) => row.place)),
      element("p", { className: "caption" }, "Hold the keys or the buttons. Esc pauses. ", this.padName),
    );
    $("drive").hidden = false;
  }

  row(index, low, high) {
    const name = this.facts.names[index] ?? `action ${index}`;
    const [more, less] = this.keys[index];
    const button = (sign, code) => {
      const made = element("button", { type: "button", text: code ? keyName(code) : sign });
      made.setAttribute("aria-label", `${sign === "+" ? "more" : "less"} ${name}`);
      const name_ = `${sign}${index}`;
      made.onpointerdown = (event) => {
        made.setPointerCapture(event.pointerId);
        this.pressed.add(name_);
      };
      made.onpointerup = made.onpointercancel = () => this.pressed.delete(name_);
      return made;
    };
    const dot = element("i"), value = element("span");
    const buttons = [button("-", less), button("+", more)];
    const title = element("b", { text: name, title: `from ${short(low)} to ${short(high)}` });
    const place = element("div", { className: "dimension" },
      element("p", {}, title, value), buttons[0], element("div", { className: "track" }, dot), buttons[1]);
    return { place, dot, value, buttons };
  }

  key(event, down) {
    if (!down) {
      this.pressed.delete(event.code);  // whatever else is pressed or focused: a released key must not move an arm
      return;
    }
    if (MODIFIERS.includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) {
      this.pressed.clear();
      return;
    }
    if (this.robot === null) return;
    if (event.target instanceof HTMLInputElement && event.target.type !== "radio") return;
    if (event.code === "Escape") {
      this.send({ robot: this.robot, phase: "paused" });
      this.leave();
      return;
    }
    if (!this.keys.some((pair) => pair.includes(event.code))) return;
    event.preventDefault();
    this.pressed.add(event.code);
  }

  // How far a dimension is pushed, from -1 to 1.
  push(index, pad) {
    const [more, less] = this.keys[index];
    const held = (code, sign) => this.pressed.has(code) || this.pressed.has(`${sign}${index}`);
    const keys = held(more, "+") - held(less, "-");
    if (keys || !pad || !this.pad[index]) return keys;
    const { axis, sign, more: up, less: down } = this.pad[index];
    if (axis === undefined) return (pad.buttons[up]?.value ?? 0) - (pad.buttons[down]?.value ?? 0);
    const way = sign * (pad.axes[axis] ?? 0);
    return Math.abs(way) < DEAD ? 0 : Math.sign(way) * (Math.abs(way) - DEAD) / (1 - DEAD);
  }

  tick() {
    const now = performance.now(), seconds = Math.min(0.2, (now - this.before) / 1000);
    this.before = now;
    const pad = [...(navigator.getGamepads?.() ?? [])].find((one) => one?.mapping === "standard") ?? null;
    this.padName.textContent = pad ? `Gamepad: ${pad.id}` : "A gamepad works too: press one of its buttons.";
    this.rows.forEach((row, index) => {
      const low = this.facts.low[index], high = this.facts.high[index], push = this.push(index, pad);
      this.values[index] = this.facts.held[index]
        ? Math.min(high, Math.max(low, this.values[index] + push * this.speed * 2 * (high - low) * seconds))
        : pushed(push * this.speed, low, high);
      row.value.textContent = short(this.values[index]);
      row.dot.style.left = `${100 * (this.values[index] - low) / (high - low || 1)}%`;
      row.buttons[0].classList.toggle("pressed", push < 0);
      row.buttons[1].classList.toggle("pressed", push > 0);
      row.place.title = pad && this.pad[index] ? this.pad[index].name : "";
    });
    this.send({ robot: this.robot, steer: this.values });
  }
}

// From rest (0, or the end of the range nearest to it) towards one end of the range.
export function pushed(push, low, high) {
  const rest = Math.min(Math.max(0, low), high);
  return rest + push * (push > 0 ? high - rest : rest - low);
}

function keyName(code) {
  return SIGNS[code] ?? code.replace(/^(Key|Digit)/, "");
}
