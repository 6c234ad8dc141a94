// Live: one picture under way at a time; what is found is drawn on the picture that it was found on.

import { get, open } from "./api.js";
import { attach, chip, complain, el, empty, fill, objectItem, phrasesIn, slide, toast, whenOpen } from "./dom.js";
import { row } from "./masks.js";
import { NO_OBJECT, Pointer, rounded } from "./pointer.js";
import { Stage } from "./stage.js";

const REFUSED = {
  NotAllowedError: "This page is not allowed to use the webcam. Allow it in the browser's settings.",
  NotFoundError: "There is no webcam.",
  NotReadableError: "The webcam is in use by another program.",
};

export default class LiveView {
  constructor({ socket, state }) {
    Object.assign(this, { state, phrases: [...state.phrases], ticket: 0, rows: [], chosen: null, socket: null, thresholds: {}, changed: {} });
    this.pictures = new Map(); // ticket -> the picture that was sent, or that came
    this.node = attach(this, "live");
    this.video = el("video", { muted: true, playsInline: true });
    this.stage = new Stage(this.screen, "Live video. Click to point at an object");
    this.pointer = new Pointer(this.stage, {
      pressed: () => { this.pressed = this.stage.picture.dataset.ticket; return Boolean(this.socket && this.pressed); },
      click: (at, right) => right && this.chosen === null ? toast(NO_OBJECT) : this.point({ points: [rounded(at)], labels: [right ? 0 : 1] }),
      box: (box) => this.point({ box }),
    });
    this.cameraButton.title = state.camera ?? "";
    this.usual = {};
    socket.on("model", ({ info }) => this.showThresholds((this.usual = { ...info.thresholds, ...this.usual })));
    this.showPhrases();
    this.stop();
  }

  enter() { if (this.state.camera && !this.socket) this.start({ value: "camera" }); }
  leave() { this.stop(); }

  toggle() {
    if (this.run) this.stop();
    else this.start({ value: this.state.camera ? "camera" : "webcam" });
  }

  // What one asks for while it starts waits: what the camera's view looks for is being asked.
  start({ value: source }) {
    this.stop();
    const run = (this.run = {}), opening = (this.opening = this.begin(source, run).finally(() => { if (opening === this.opening) this.opening = null; }));
  }

  async begin(source, run) {
    this.source = source;
    this.offer(false);
    try {
      if (source === "webcam") await this.openWebcam(run);
      if (run === this.run) await this.learn(run);
      if (run === this.run) await this.connect();
    } catch (error) {
      if (run === this.run) this.stop(error.message);
    }
  }

  async openWebcam(run) {
    if (!navigator.mediaDevices) throw new Error("Browsers allow the webcam only over HTTPS or on the same machine.");
    this.status.textContent = "Waiting for the webcam.";
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 360 } } }).catch(({ name, message }) => {
      throw new Error(REFUSED[name] ?? `The webcam cannot be used: ${message}`);
    });
    if (run !== this.run) { end(stream); return; } // stopped meanwhile
    this.video.srcObject = this.stream = stream;
    stream.getTracks()[0].onended = () => this.stop("The webcam has ended.");
    await this.video.play();
  }

  async connect() {
    const socket = open("/live"), { source } = this;
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onmessage = ({ data }) => socket === this.socket && (data instanceof ArrayBuffer ? this.received(data) : this.answered(JSON.parse(data)));
    socket.onclose = () => {
      if (this.socket === socket) this.status.textContent = "Connection lost.";
      setTimeout(() => this.socket === socket && this.connect(), 1500);
    };
    this.status.textContent = "Waiting for the first frame.";
    this.times = [];
    this.asks = 0;
    this.pictures.clear();
    await new Promise((done) => { socket.onopen = socket.onerror = done; });
    if (source === "webcam") {
      this.ask({ do: "phrases", phrases: this.phrases });
      this.ask({ do: "thresholds", thresholds: this.thresholds });
    }
    this.next();
  }

  stop(why = "") {
    const { socket, stream } = this;
    this.socket = this.run = this.stream = null;
    socket?.close();
    end(stream);
    this.offer(true);
    this.status.textContent = why;
  }

  // To start, or to stop.
  offer(start) {
    this.webcamButton.hidden = !start;
    this.cameraButton.hidden = !start || !this.state.camera;
    this.stopButton.hidden = start;
  }

  send(value) {
    const isOpen = this.socket?.readyState === WebSocket.OPEN;
    if (isOpen) this.socket.send(value instanceof Uint8Array ? value : JSON.stringify(value));
    return isOpen;
  }

  ask(value) {
    this.asks += this.send(value);
    this.known = "";
  }

  // The newest picture: the webcam's as it is now, or whatever the camera shows after the last.
  async next() {
    const { socket } = this;
    if (!socket) return;
    if (this.source === "camera") { this.send({ do: "next", ticket: this.ticket }); return; }
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) { setTimeout(() => this.next(), 50); return; } // no picture yet
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
    const { socket } = this;
    this.ticket = new DataView(data).getUint32(0);
    const bitmap = await createImageBitmap(new Blob([data.slice(4)], { type: "image/jpeg" }));
    if (socket !== this.socket) return;
    this.pictures.set(this.ticket, { bitmap });
    if (this.waiting?.ticket === this.ticket) this.answered(this.waiting);
  }

  async answered(event) {
    event.heard ??= performance.now();
    if (event.event === "refused") return complain(event);
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
    if (event.asks === this.asks) this.follow(event);
    this.rows = event.frame.o.map(row).map((each) => ({ ...each, faint: event.tentative.includes(each.id) }));
    if (event.retracted.includes(this.chosen)) this.chosen = null;
    this.next(); // before drawing: the model need not wait for it
    await this.draw(event, picture.bitmap);
    this.tell(event, picture);
  }

  async draw(event, bitmap) {
    const { stage } = this;
    if (stage.size?.width !== event.width || stage.size?.height !== event.height) stage.setSize(event);
    stage.redraw = () => stage.show(bitmap, this.rows, { key: `live ${this.source} ${event.ticket}` });
    if (await stage.redraw() && this.socket) stage.picture.dataset.ticket = event.ticket;
  }

  tell(event, picture) {
    const now = performance.now(), age = event.age === undefined ? now - picture.at : 1000 * event.age + now - event.heard;
    this.times = [...this.times.filter((each) => now - each < 2000), now];
    this.status.textContent = this.source === "camera" ? `Live: ${this.state.camera}` : "Live: webcam";
    const figures = {
      objects: this.rows.length,
      "frames per second": (this.times.length / 2).toFixed(1),
      "age of the frame": `${Math.round(age)} ms`,
      "model's step": `${Math.round(event.seconds * 1000)} ms`,
      dropped: event.dropped,
      recording: event.clip,
    };
    fill(this.figures, Object.entries(figures).map(([name, value]) => value !== undefined && [el("dt", {}, name), el("dd", {}, String(value))]).flat());
    fill(this.objects, this.rows.map(({ id, prompt, faint }) => objectItem(id, id === this.chosen, el("span", {}, prompt), faint && el("small", {}, "tentative"),
      el("button", { class: "quiet", ariaLabel: `Drop object ${id}`, do: "drop", value: id }, "×"))),
      !this.rows.length && empty("No objects."));
  }

  // Asking

  async addPhrase() {
    const text = this.phrase.value;
    this.phrase.value = "";
    if (this.opening) await whenOpen(this);
    this.change(phrasesIn(text), []);
  }

  removePhrase({ value }) { this.change([], [value]); }

  change(add, remove) {
    this.phrases = [...new Set([...this.phrases, ...add])].filter((each) => !remove.includes(each));
    this.ask({ do: "phrases", add, remove });
    this.showPhrases();
  }

  // What all pages have asked for of a camera's view, and what the model has refused, once it knows what this page asks.
  follow({ phrases, thresholds }) {
    const known = JSON.stringify([phrases, thresholds]);
    if (known === this.known) return;
    Object.assign(this, { known, phrases, thresholds: { ...thresholds, ...this.changed } });
    this.showPhrases();
    this.showThresholds();
  }

  showPhrases() { fill(this.chips, this.phrases.map((text) => chip(text, "removePhrase", text, `Remove ${text}`))); }

  // What is looked for now. Others may have changed what the camera's view looks for.
  async learn(run) {
    const { phrases, camera_thresholds, thresholds, model_thresholds } = await get("/api/state");
    if (run !== this.run) return;
    if (this.source === "camera") Object.assign(this, { phrases, thresholds: camera_thresholds });
    this.usual = { ...model_thresholds, ...Object.fromEntries(Object.entries(thresholds).filter(([, value]) => value !== null)) };
    this.showPhrases();
    this.showThresholds();
  }

  setThreshold({ name, value }) {
    this.thresholds[name] = this.changed[name] = Number(value);
    this.showThresholds();
    clearTimeout(this.settling); // the bar is still being moved
    this.settling = setTimeout(() => {
      this.ask({ do: "thresholds", change: this.changed });
      this.changed = {};
    }, 300);
  }

  showThresholds() { slide(this.settings, (name) => this.thresholds[name] ?? this.usual[name]); }

  choose({ value }) { this.chosen = value; }
  finish() { this.chosen = null; }

  drop({ value }) {
    const id = Number(value) || this.chosen;
    if (id) this.send({ do: "drop", object: id });
    if (this.chosen === id) this.chosen = null;
  }

  point(item) {
    const object = this.chosen === null ? {} : { object_id: this.chosen };
    this.send({ do: "point", ticket: Number(this.pressed), item: { units: "pixels", label: "clicked", ...object, ...item } });
  }
}

function end(stream) { stream?.getTracks().forEach((track) => track.stop()); }
