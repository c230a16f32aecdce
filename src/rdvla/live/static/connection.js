// The socket to the server: opens it, gives it the key, opens it again when it is lost.

const SHORTEST_WAIT = 500;  // ms before the next try
const LONGEST_WAIT = 10_000;
const KEY = "rdvla-live-key";  // in this tab's storage

export class Connection {
  // `on` has: state(name, text), hello(message), message(message), keyNeeded(problem).
  constructor(on) {
    this.on = on;
    this.wait = SHORTEST_WAIT;
    this.socket = null;
    this.timer = null;
    this.farewell = "";  // of a server that has ended on purpose
  }

  open() {
    clearTimeout(this.timer);
    const address = new URL("live/socket", document.baseURI);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = this.socket = new WebSocket(address);
    socket.onmessage = (event) => {
      if (socket === this.socket) this.receive(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.lost(event);
    };
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  useKey(key) {
    sessionStorage.setItem(KEY, key);
    this.open();
  }

  receive(message) {
    if (message.type === "hello") {
      this.keyed = message.key_needed;
      const key = sessionStorage.getItem(KEY);
      if (this.keyed && key === null) {
        this.drop();
        this.on.keyNeeded("");
        return;
      }
      if (this.keyed) this.send({ key });
      this.wait = SHORTEST_WAIT;
      this.farewell = "";
      this.on.state("live", "live");
      this.on.hello(message);
      return;
    }
    this.on.message(message);
  }

  drop() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  lost(event) {
    this.socket = null;
    if (event.code === 1008 && this.keyed) {
      sessionStorage.removeItem(KEY);
      this.on.keyNeeded("That key was refused.");
      return;
    }
    if (event.code === 1001 && event.reason) this.farewell = event.reason;
    if (this.farewell) this.on.state("ended", this.farewell);  // it may come back, but it said goodbye
    else if (event.code === 1013 && event.reason) this.on.state("lost", event.reason);
    else this.on.state("lost", "connection lost, trying again");
    this.timer = setTimeout(() => this.open(), this.wait * (0.75 + Math.random() / 2));
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }
}
