// Live: one picture under way at a time; what is found is drawn on the picture that it was found on.

import { css } from "./colours.js";
import { el, fill, toast } from "./dom.js";
import { keys } from "./keys.js";
import { Masks, row } from "./masks.js";
import { paintChips } from "./player.js";

const DRAG = 6;

export class LiveView {
  constructor({ state }) {
    this.state = state;
    this.phrases = [...state.phrases];
    this.masks = new Masks();
    this.pictures = new Map(); // ticket -> the picture that was sent, or that came
    this.ticket = 0;
    this.rows = [];
    this.chosen = null;
    this.build();
  }

  build() {
    this.picture = el("canvas", { class: "picture" });
    this.over = el("canvas", { class: "over", tabIndex: 0, "aria-label": "The live picture. Click to point at an object" });
    this.stage = el("div", { class: "stage" }, this.picture, this.over);
    this.video = el("video", { muted: true, playsInline: true });
    this.phrase = el("input", { type: "text", placeholder: "person, red circle, …", "aria-label": "Phrase to look for", maxLength: 256, onkeydown: (e) => e.key === "Enter" && this.addPhrase() });
    this.chips = el("div", { class: "chips" });
    this.objects = el("ul", { class: "objects", "aria-label": "Objects" });
    this.startButton = el("button", { class: "primary big", onclick: () => this.start("webcam") }, "Start the webcam");
    this.cameraButton = el("button", { class: "big", hidden: !this.state.camera, title: this.state.camera ?? "", onclick: () => this.start("camera") }, "Watch the camera");
    this.stopButton = el("button", { class: "big", hidden: true, onclick: () => this.stop() }, "Stop");
    this.status = el("p", { class: "status", role: "status" });
    this.figures = el("dl", { class: "figures" });
    this.panel = el("aside", { class: "panel" },
      el("section", {}, el("h2", {}, "Source"), el("div", { class: "row" }, this.startButton, this.cameraButton, this.stopButton), this.status, this.figures),
      el("section", {}, el("h2", {}, "Find"), el("div", { class: "row" }, this.phrase, el("button", { "aria-label": "Add the phrase", onclick: () => this.addPhrase() }, "+")), this.chips),
      el("section", {}, el("h2", {}, "Objects"), el("p", { class: "hint" }, "Click on an object, or drag a box: it is followed from that picture on. Pale ones may still turn out to be nothing."), this.objects));
    this.node = el("div", { class: "try live" }, el("div", { class: "centre" }, this.stage), this.panel);
    new ResizeObserver(() => this.fit()).observe(this.stage);
    this.over.addEventListener("contextmenu", (event) => event.preventDefault());
    this.over.addEventListener("pointerdown", (event) => { this.drag = { at: this.at(event), x: event.clientX, y: event.clientY, ticket: this.shownTicket, right: event.button === 2 }; });
    this.over.addEventListener("pointerup", (event) => this.up(event));
    this.showPhrases();
  }

  enter() {
    keys([
      { keys: ["/"], says: "type a phrase", act: () => this.phrase.focus() },
      { keys: ["f"], says: "finish the object: the next click begins another one", act: () => this.choose(null) },
      { keys: ["d", "Delete"], says: "drop the chosen object", act: () => this.chosen !== null && this.drop(this.chosen) },
      { keys: [" "], says: "start or stop", act: () => (this.socket ? this.stop() : this.start(this.state.camera ? "camera" : "webcam")) },
      { keys: ["?"], says: "this list", act: () => {} },
    ]);
    if (this.state.camera && !this.socket) this.start("camera");
  }

  leave() { this.stop(); }

  async start(source) {
    this.stop();
    this.source = source;
    if (source === "webcam") {
      try {
        this.stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 360 } } });
      } catch (error) {
        this.status.textContent = navigator.mediaDevices ? `The webcam cannot be used: ${error.message}` : "The webcam works over HTTPS or on this machine alone.";
        return;
      }
      this.video.srcObject = this.stream;
      await this.video.play();
    }
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      if (source === "webcam") this.sendPhrases();
      this.next();
    };
    socket.onmessage = ({ data }) => (data instanceof ArrayBuffer ? this.received(data) : this.answered(JSON.parse(data)));
    socket.onclose = () => { if (this.socket === socket) { this.stop(); this.status.textContent = "The connection is lost."; } };
    this.startButton.hidden = this.cameraButton.hidden = true;
    this.stopButton.hidden = false;
    this.status.textContent = "Waiting for the first picture.";
    this.times = [];
  }

  stop() {
    const { socket } = this;
    this.socket = null;
    socket?.close();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.pictures.clear();
    this.startButton.hidden = false;
    this.cameraButton.hidden = !this.state.camera;
    this.stopButton.hidden = true;
    this.status.textContent = "";
  }

  send(value) { if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(typeof value === "object" && !(value instanceof Uint8Array) ? JSON.stringify(value) : value); }

  // The newest picture: the webcam's as it is now, or whatever the camera shows after the last.
  async next() {
    const { socket } = this;
    if (!socket) return;
    if (this.source === "camera") { this.send({ do: "next", ticket: this.ticket }); return; }
    const { videoWidth: width, videoHeight: height } = this.video;
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const ticket = ++this.ticket;
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
    this.pictures.set(ticket, { bitmap: canvas.transferToImageBitmap(), at: performance.now() });
    const bytes = new Uint8Array(await blob.arrayBuffer()), message = new Uint8Array(bytes.length + 4);
    new DataView(message.buffer).setUint32(0, ticket);
    message.set(bytes, 4);
    if (this.socket === socket) this.send(message);
  }

  async received(data) {
    this.ticket = new DataView(data).getUint32(0);
    const bitmap = createImageBitmap(new Blob([data.slice(4)], { type: "image/jpeg" }));
    this.pictures.set(this.ticket, { bitmap: await bitmap, at: performance.now() });
    if (this.waiting?.ticket === this.ticket) this.answered(this.waiting);
  }

  async answered(event) {
    if (event.event === "refused") { toast(event.message, "error"); return; }
    if (event.event === "wait") {
      if (event.message) this.status.textContent = event.message;
      this.pictures.delete(event.ticket);
      setTimeout(() => this.next(), this.source === "camera" ? 100 : 0);
      return;
    }
    const picture = this.pictures.get(event.ticket);
    if (!picture) { this.waiting = event; return; } // its picture is still being decoded
    this.waiting = null;
    for (const ticket of this.pictures.keys()) if (ticket < event.ticket) this.pictures.delete(ticket);
    if (event.problem) toast(event.problem, "error");
    this.rows = event.frame.o.map(row).map((each) => ({ ...each, faint: event.tentative.includes(each.id) }));
    if (this.chosen !== null && event.retracted.includes(this.chosen)) this.chosen = null;
    this.next(); // before drawing: the model need not wait for it
    await this.draw(event, picture);
    this.tell(event, picture);
  }

  async draw(event, { bitmap }) {
    const { width, height } = event;
    const masks = this.rows.length ? await this.masks.paint(`live ${this.source} ${event.ticket}`, this.rows, { width, height, opacity: 0.5 }) : null;
    if (!this.socket) return;
    if (this.picture.width !== bitmap.width || this.picture.height !== bitmap.height) {
      this.picture.width = bitmap.width;
      this.picture.height = bitmap.height;
      this.size = { width, height };
      this.fit();
    }
    this.picture.getContext("2d").drawImage(bitmap, 0, 0);
    const context = this.over.getContext("2d");
    context.clearRect(0, 0, this.over.width, this.over.height);
    if (masks) context.drawImage(masks, 0, 0, this.over.width, this.over.height);
    paintChips(context, this.rows, this.over.width / width);
    this.shownTicket = event.ticket;
    this.picture.dataset.ticket = event.ticket;
    this.over.dataset.objects = this.rows.map((each) => each.id).join(" ");
  }

  tell(event, picture) {
    const now = performance.now();
    this.times = [...this.times.filter((each) => now - each < 2000), now];
    const age = event.age !== undefined ? event.age * 1000 + now - picture.at : now - picture.at;
    this.status.textContent = this.source === "camera" ? `Live: ${this.state.camera}` : "Live: webcam";
    const figures = { objects: this.rows.length, "pictures a second": (this.times.length / 2).toFixed(1), "age of the picture": `${Math.round(age)} ms`, "model's step": `${Math.round(event.seconds * 1000)} ms`, ...(event.dropped !== undefined ? { dropped: event.dropped } : {}), ...(event.clip ? { recording: event.clip } : {}) };
    fill(this.figures, Object.entries(figures).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
    fill(this.objects, this.rows.map((each) => el("li", { class: `${each.id === this.chosen ? "chosen" : ""} ${each.faint ? "faint" : ""}`, onclick: () => this.choose(each.id) },
      el("i", { class: "dot", style: { background: css(each.id) } }), el("b", {}, String(each.id)), el("span", {}, each.prompt), each.faint ? el("small", {}, "tentative") : null,
      el("button", { class: "quiet", "aria-label": `Drop object ${each.id}`, onclick: (e) => { e.stopPropagation(); this.drop(each.id); } }, "×"))),
      this.rows.length ? null : el("li", { class: "empty" }, "Nothing."));
  }

  // Asking

  addPhrase() {
    for (const text of this.phrase.value.split(/[,;\n]/).map((each) => each.trim())) if (text && !this.phrases.includes(text)) this.phrases.push(text);
    this.phrase.value = "";
    this.sendPhrases();
  }

  sendPhrases() {
    this.send({ do: "phrases", phrases: this.phrases });
    this.showPhrases();
  }

  showPhrases() {
    fill(this.chips, this.phrases.map((text) => el("span", { class: "chip" }, text, el("button", { class: "quiet", "aria-label": `Remove ${text}`, onclick: () => { this.phrases = this.phrases.filter((each) => each !== text); this.sendPhrases(); } }, "×"))));
  }

  choose(id) { this.chosen = id; }

  drop(id) {
    this.send({ do: "drop", object: id });
    if (this.chosen === id) this.chosen = null;
  }

  up(event) {
    const { drag } = this, to = this.at(event);
    this.drag = null;
    if (!drag?.at || !to || !this.socket || drag.ticket === undefined) return;
    const about = { units: "pixels", label: "clicked", ...(this.chosen !== null ? { object_id: this.chosen } : {}) };
    const moved = Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > DRAG;
    const item = moved && !drag.right
      ? { ...about, box: [Math.min(drag.at[0], to[0]), Math.min(drag.at[1], to[1]), Math.max(drag.at[0], to[0]), Math.max(drag.at[1], to[1])] }
      : { ...about, points: [to], labels: [drag.right ? 0 : 1] };
    this.send({ do: "point", ticket: drag.ticket, item });
  }

  at(event) {
    if (!this.size) return null;
    const box = this.over.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.size.width, y = ((event.clientY - box.top) / box.height) * this.size.height;
    return x < 0 || y < 0 || x > this.size.width || y > this.size.height ? null : [Math.round(x * 100) / 100, Math.round(y * 100) / 100];
  }

  fit() {
    if (!this.size) return;
    const room = this.stage.getBoundingClientRect(), scale = Math.min(room.width / this.size.width, room.height / this.size.height);
    const width = Math.max(1, Math.round(this.size.width * scale)), height = Math.max(1, Math.round(this.size.height * scale));
    for (const canvas of [this.picture, this.over]) Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    const dpr = window.devicePixelRatio || 1;
    this.over.width = Math.round(width * dpr);
    this.over.height = Math.round(height * dpr);
  }
}
