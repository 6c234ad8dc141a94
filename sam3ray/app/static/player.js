// One clip: exact frames, counted by the server's decoder, with what lies over them.

import { css, ink } from "./colours.js";
import { clock, el } from "./dom.js";
import { Masks } from "./masks.js";

const KEPT = 120, AHEAD = 10;

export class Player extends EventTarget {
  // rowsAt(index) -> rows; decorate(context, scale) draws prompts.
  constructor({ rowsAt, decorate = () => {}, keyOf = () => "" }) {
    super();
    Object.assign(this, { rowsAt, decorate, keyOf });
    this.masks = new Masks();
    this.opacity = 0.5;
    this.labels = true;
    this.only = null;
    this.position = 0;
    this.wanted = 0;
    this.pictures = new Map();
    this.picture = el("canvas", { class: "picture" });
    this.over = el("canvas", { class: "over", tabIndex: 0, "aria-label": "The frame. Click to point at an object" });
    this.stage = el("div", { class: "stage" }, this.picture, this.over);
    this.slider = el("input", { type: "range", min: 0, max: 0, value: 0, class: "scrub", "aria-label": "Frame", oninput: () => this.show(Number(this.slider.value)) });
    this.number = el("input", { type: "number", min: 0, value: 0, class: "number", "aria-label": "Frame number", onchange: () => this.showIndex(Number(this.number.value)) });
    this.time = el("span", { class: "time" });
    this.playButton = el("button", { class: "play", title: "Play (space)", "aria-label": "Play", onclick: () => this.toggle() }, "▶");
    this.transport = el("div", { class: "transport" },
      this.playButton,
      el("button", { class: "quiet", title: "One frame back (←)", "aria-label": "One frame back", onclick: () => this.step(-1) }, "‹"),
      el("button", { class: "quiet", title: "One frame on (→)", "aria-label": "One frame on", onclick: () => this.step(1) }, "›"),
      this.slider, this.number, this.time);
    this.node = el("div", { class: "player" }, this.stage, this.transport);
    new ResizeObserver(() => this.fit()).observe(this.stage);
  }

  get count() { return this.clip ? this.clip.times.length : 0; }
  get index() { return this.indexAt(this.position); }
  indexAt(position) { return this.clip?.indices ? this.clip.indices[position] : position; }
  positionOf(index) {
    if (!this.clip?.indices) return index >= 0 && index < this.count ? index : -1;
    return this.clip.indices.indexOf(index);
  }

  // While another clip is opened: nothing of this one is drawn again. Returns it.
  close() {
    const { clip } = this;
    this.pause();
    this.clip = null;
    this.picture.dataset.frame = "";
    return clip;
  }

  async load(clip) {
    this.pause();
    this.clip = clip;
    this.pictures.clear(); // not closed: one may be being drawn

    this.masks.kept.clear();
    this.only = null;
    this.picture.dataset.frame = "";
    this.slider.max = this.count - 1;
    this.number.max = this.indexAt(this.count - 1);
    this.fit();
    await this.show(0);
  }

  fetch(position) {
    if (!this.pictures.has(position)) {
      const key = this.clip.key;
      const { clip } = this;
      this.pictures.set(position, (async () => {
        if (clip.missing) return plain(clip);
        const response = await fetch(`/api/clips/${key}/stills/${position}`);
        if (!response.ok) throw new Error((await response.json().catch(() => ({}))).message ?? "the frame cannot be read");
        return createImageBitmap(await response.blob());
      })());
      if (this.pictures.size > KEPT) {
        const oldest = [...this.pictures.keys()].find((each) => Math.abs(each - position) > AHEAD * 2);
        if (oldest !== undefined) {
          this.pictures.delete(oldest);
        }
      }
    }
    return this.pictures.get(position);
  }

  async show(position) {
    if (!this.clip || !(position >= 0)) return;
    position = Math.max(0, Math.min(this.count - 1, Math.round(position)));
    this.wanted = position;
    const clip = this.clip;
    let bitmap;
    try {
      bitmap = await this.fetch(position);
    } catch (error) {
      this.pictures.delete(position);
      if (this.clip === clip && this.wanted === position) this.dispatchEvent(new CustomEvent("problem", { detail: error.message }));
      return;
    }
    if (this.clip !== clip || this.wanted !== position) return; // something newer is wanted
    if (this.picture.width !== bitmap.width || this.picture.height !== bitmap.height) {
      this.picture.width = bitmap.width;
      this.picture.height = bitmap.height;
    }
    this.position = position;
    this.slider.value = position;
    this.number.value = this.index;
    this.time.textContent = `${clock(clip.times[position])} / ${clock(clip.times[this.count - 1])}`;
    await this.paint(bitmap);
    this.dispatchEvent(new CustomEvent("frame"));
  }

  showIndex(index) {
    const position = this.positionOf(index);
    return position >= 0 ? this.show(position) : this.show(this.nearest(index));
  }

  nearest(index) {
    if (!this.clip.indices) return index;
    let best = 0;
    this.clip.indices.forEach((each, n) => { if (Math.abs(each - index) < Math.abs(this.clip.indices[best] - index)) best = n; });
    return best;
  }

  step(by) { this.pause(); return this.show(this.wanted + by); }

  toggle() { if (this.playing) this.pause(); else this.play(); }

  async play() {
    if (!this.clip || this.playing) return;
    const run = {};
    this.playing = run;
    this.playButton.textContent = "⏸";
    this.playButton.setAttribute("aria-label", "Pause");
    if (this.position >= this.count - 1) await this.show(0);
    const times = this.clip.times;
    let from = performance.now() / 1000 - times[this.position];
    while (this.playing === run && this.position < this.count - 1) {
      const now = performance.now() / 1000 - from;
      let next = this.position + 1;
      while (next < this.count - 1 && times[next + 1] <= now) next++; // late: frames are left out, never shifted
      for (let n = next; n < Math.min(this.count, next + AHEAD); n++) this.fetch(n).catch(() => {});
      const wait = times[next] - now;
      if (wait > 0) await new Promise((done) => setTimeout(done, wait * 1000));
      if (this.playing !== run) return;
      const before = performance.now();
      await this.show(next);
      if (this.position !== next) break;
      if (performance.now() - before > 400) from = performance.now() / 1000 - times[next];
    }
    if (this.playing === run) this.pause();
  }

  pause() {
    this.playing = null;
    this.playButton.textContent = "▶";
    this.playButton.setAttribute("aria-label", "Play");
  }

  // The stage keeps the picture's shape within the room there is.
  fit() {
    if (!this.clip) return;
    const room = this.stage.getBoundingClientRect();
    const scale = Math.min(room.width / this.clip.width, room.height / this.clip.height);
    const width = Math.max(1, Math.round(this.clip.width * scale)), height = Math.max(1, Math.round(this.clip.height * scale));
    for (const canvas of [this.picture, this.over]) Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    const dpr = window.devicePixelRatio || 1;
    if (this.over.width !== Math.round(width * dpr) || this.over.height !== Math.round(height * dpr)) {
      this.over.width = Math.round(width * dpr);
      this.over.height = Math.round(height * dpr);
    }
    this.redraw();
  }

  // Where a pointer is, in pixels of the video.
  at(event) {
    const box = this.over.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.clip.width;
    const y = ((event.clientY - box.top) / box.height) * this.clip.height;
    if (x < 0 || y < 0 || x > this.clip.width || y > this.clip.height) return null;
    return [x, y];
  }

  async redraw() {
    if (!this.clip || !this.pictures.has(this.position)) return;
    const { clip, position } = this;
    const bitmap = await this.pictures.get(position).catch(() => null);
    if (bitmap && clip === this.clip && position === this.position) await this.paint(bitmap);
  }

  async paint(bitmap) {
    const clip = this.clip, index = this.index, position = this.position;
    const rows = this.rowsAt(index).filter((row) => this.only === null || row.id === this.only);
    const key = `${clip.key} ${index} ${this.keyOf(index)} ${this.opacity} ${this.only}`;
    const masks = rows.length ? await this.masks.paint(key, rows, { width: clip.width, height: clip.height, opacity: this.opacity }) : null;
    if (this.clip !== clip || this.position !== position) return;
    this.picture.getContext("2d").drawImage(bitmap, 0, 0);
    const context = this.over.getContext("2d");
    const { width, height } = this.over;
    context.clearRect(0, 0, width, height);
    if (masks) context.drawImage(masks, 0, 0, width, height);
    const scale = width / clip.width;
    if (this.labels) paintChips(context, rows, scale);
    this.decorate(context, scale, index);
    this.picture.dataset.frame = index;
    this.over.dataset.objects = rows.map((row) => row.id).join(" ");
  }
}

export function paintChips(context, rows, scale) {
  const dpr = window.devicePixelRatio || 1, size = 12 * dpr;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const row of rows) {
    const text = `${row.id} ${row.prompt.slice(0, 40)}${row.score < 0.995 ? ` ${row.score.toFixed(2)}` : ""}`;
    const w = context.measureText(text).width + size, h = size * 1.6;
    const x = Math.max(0, Math.min(row.box[0] * scale, context.canvas.width - w));
    const y = Math.max(0, row.box[1] * scale - h - 2 * dpr);
    context.globalAlpha = row.faint ? 0.5 : 0.92;
    context.fillStyle = css(row.id);
    context.beginPath();
    context.roundRect(x, y, w, h, h / 3);
    context.fill();
    context.fillStyle = ink(row.id);
    context.fillText(text, x + size / 2, y + h / 2);
    context.globalAlpha = 1;
  }
}

// In place of a picture that is not there.
function plain({ width, height }) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  return canvas.transferToImageBitmap();
}
