// The server: requests, and one socket that comes back by itself. Who asks for something asks again when it is open.

async function checked(response) {
  const { ok, status } = response;
  if (ok) return response;
  const { message, ...more } = await response.json().catch(() => ({ message: `the server answered ${status}` }));
  throw Object.assign(new Error(message), { status, ...more });
}

export const getBlob = async (path) => (await checked(await fetch(path))).blob();
export const get = async (path) => (await checked(await fetch(path))).json();
export const post = async (path, value) => (await checked(await fetch(path, { method: "POST", body: JSON.stringify(value) }))).json();

export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of uploads
    request.open("POST", `/api/upload?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => checked(new Response(request.response, request)).then((each) => each.json()).then(resolve, reject);
    request.onerror = () => reject(new Error("the connection broke"));
    request.send(file);
  });
}

const random = () => crypto.getRandomValues(new Uint32Array(4)).join("");

// Of this tab: when it is reloaded, it gets its results back. A copy of the tab has the same owner.
export function owner() {
  let value = sessionStorage.getItem("owner");
  if (!value) sessionStorage.setItem("owner", (value = random()));
  return value;
}

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
