// The server: requests, and one socket that comes back by itself.

async function answer(response) {
  if (response.ok) return response.json();
  let problem = { message: `the server answered ${response.status}` };
  try { problem = await response.json(); } catch { /* no JSON: the status has to do */ }
  throw Object.assign(new Error(problem.message), { status: response.status, problem });
}

export const get = async (path) => answer(await fetch(path));
export const post = async (path, value) => answer(await fetch(path, { method: "POST", body: JSON.stringify(value) }));

export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of uploads
    request.open("POST", `/api/upload?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      let value = {};
      try { value = JSON.parse(request.responseText); } catch { /* below */ }
      if (request.status === 200) resolve(value);
      else reject(new Error(value.message ?? `the server answered ${request.status}`));
    };
    request.onerror = () => reject(new Error("the connection broke"));
    request.send(file);
  });
}

// Of this tab: loaded again it gets its results back.
function owner() {
  let value = sessionStorage.getItem("owner");
  if (!value) {
    value = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("owner", value);
  }
  return value;
}

export class Socket extends EventTarget {
  constructor(path = "/ws") {
    super();
    this.path = path;
    this.open();
  }

  open() {
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${this.path}`);
    this.socket.onopen = () => {
      this.send({ do: "hello", owner: owner() });
      this.dispatchEvent(new CustomEvent("open"));
    };
    this.socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      this.dispatchEvent(new CustomEvent(event.event, { detail: event }));
    };
    this.socket.onclose = () => {
      this.dispatchEvent(new CustomEvent("lost"));
      setTimeout(() => this.open(), 1500);
    };
  }

  send(value) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(value));
    return true;
  }

  on(name, heard) {
    this.addEventListener(name, (event) => heard(event.detail));
  }
}
