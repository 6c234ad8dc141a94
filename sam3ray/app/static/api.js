// The server: requests, and one socket that comes back by itself.

async function answer(response) {
  const value = await response.json().catch(() => ({ message: `the server answered ${response.status}` }));
  if (response.ok) return value;
  throw Object.assign(new Error(value.message), { status: response.status });
}

export const get = async (path) => answer(await fetch(path));
export const post = async (path, value) => answer(await fetch(path, { method: "POST", body: JSON.stringify(value) }));

export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of uploads
    request.open("POST", `/api/upload?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => answer(new Response(request.response, { status: request.status })).then(resolve, reject);
    request.onerror = () => reject(new Error("the connection broke"));
    request.send(file);
  });
}

// Of this tab: when it is reloaded, it gets its results back.
export function owner() {
  let value = sessionStorage.getItem("owner");
  if (!value) sessionStorage.setItem("owner", (value = crypto.getRandomValues(new Uint32Array(4)).join("")));
  return value;
}

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
      this.dispatchEvent(new CustomEvent(detail.event, { detail }));
    };
    this.socket.onclose = () => {
      this.dispatchEvent(new Event("lost"));
      setTimeout(() => this.connect(), 1500);
    };
  }

  // Whether it could be sent.
  send(value) {
    const isOpen = this.socket.readyState === WebSocket.OPEN;
    if (isOpen) this.socket.send(JSON.stringify(value));
    return isOpen;
  }

  on(name, heard) {
    this.addEventListener(name, (event) => heard(event.detail));
  }
}
