// The server: requests, and one socket that comes back by itself. Who asks for something asks again when it is open.

export async function checked(response) {
  const { ok, status } = response;
  if (ok) return response;
  const { message, ...more } = await response.json().catch(() => ({ message: `the server answered ${status}` }));
  throw Object.assign(new Error(message), { status, ...more });
}

// What is fetched; a script, too. Browsers have each their own words for a server that is gone.
export const reached = (coming) => coming.catch((error) => {
  throw error instanceof TypeError ? new Error("The server cannot be reached. Is it still running?") : error;
});
const ask = (path, kind, options) => reached(fetch(path, options).then(checked).then((each) => each[kind]()));

export const getBlob = (path) => ask(path, "blob");
export const get = (path) => ask(path, "json");
export const post = (path, value) => ask(path, "json", { method: "POST", body: JSON.stringify(value) });

const random = () => crypto.getRandomValues(new Uint32Array(4)).join("");

// Of this tab: when it is reloaded, it gets its results back. A copy of the tab has the same owner.
export const owner = () => (sessionStorage.owner ??= random());

// Says which answer belongs to what was asked here, and not in a copy of this tab.
export const ticket = (kind) => `${kind} ${random()}`;

export const open = (path) => new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}${path}`);

export class Socket extends EventTarget {
  constructor() {
    super();
    this.connect();
  }

  connect() {
    this.socket = open("/ws");
    this.socket.onopen = () => {
      this.send({ do: "hello", owner: owner() });
      this.dispatchEvent(new Event("open"));
    };
    this.socket.onmessage = ({ data }) => {
      const detail = JSON.parse(data);
      if (detail.event === "model") this.model = detail;
      this.dispatchEvent(new CustomEvent(detail.event, { detail }));
    };
    this.socket.onclose = () => {
      this.dispatchEvent(new Event("lost"));
      setTimeout(() => this.connect(), 1500);
    };
  }

  send(value) { if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(value)); }

  on(name, heard) {
    this.addEventListener(name, (event) => heard(event.detail));
    if (name === "model" && this.model) heard(this.model); // a view can come later than the news
  }
}
