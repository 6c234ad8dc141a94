// Objects by frames: where each is seen, how surely, and where it is missing.

import { css } from "./colours.js";
import { dot, el, fill } from "./dom.js";

const ROW = 18;

export class Timeline {
  // player: for the playhead and the clip. told(id): an object is chosen here.
  constructor(player, told) {
    Object.assign(this, { player, told, tracks: [], chosen: null });
    this.names = el("div", { class: "names" });
    this.canvas = el("canvas", { class: "tracks", ariaLabel: "Timeline of the objects" });
    this.head = el("i", { class: "head" });
    this.node = el("div", { class: "timeline" }, this.names, el("div", { class: "lanes" }, this.canvas, this.head));
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.seek(event);
      const track = this.tracks[Math.floor(event.offsetY / ROW)];
      if (track) this.told(track.id);
    });
    this.canvas.addEventListener("pointermove", (event) => event.buttons && this.seek(event));
    player.addEventListener("frame", () => this.move());
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  seek(event) {
    this.player.pause();
    this.player.show(Math.floor((event.offsetX / this.canvas.clientWidth) * this.player.count));
  }

  track(id) { return this.tracks.find((each) => each.id === id); }

  // rows: Map index -> rows
  set(rows) {
    const tracks = new Map();
    for (const [index, each] of rows) {
      for (const { id, prompt, score, track } of each) {
        if (!tracks.has(id)) tracks.set(id, { id, prompt, score, at: new Map() });
        tracks.get(id).at.set(index, track);
      }
    }
    this.tracks = [...tracks.values()].sort((a, b) => a.id - b.id);
    fill(this.names, this.tracks.map(({ id, prompt, at }) => el("button", { class: "name", title: `${prompt}: ${at.size} frames`, "data-of": id, onclick: () => this.told(id) }, dot(id), `${id} ${prompt}`)));
    this.choose(this.chosen);
  }

  choose(id) {
    this.chosen = id;
    this.tracks.forEach((track, n) => this.names.children[n].classList.toggle("chosen", track.id === id));
    this.draw();
  }

  // The cells stay: only the playhead moves from frame to frame.
  move() {
    const { clip, position, count } = this.player;
    if (this.drawn !== clip) this.draw();
    this.head.style.left = `${(100 * (position + 0.5)) / count}%`;
  }

  draw() {
    const { player, canvas } = this, dpr = window.devicePixelRatio || 1, width = canvas.clientWidth;
    const height = Math.max(1, this.tracks.length) * ROW, h = ROW * dpr;
    canvas.style.height = `${height}px`;
    canvas.width = Math.max(1, width * dpr);
    canvas.height = height * dpr;
    this.drawn = player.clip;
    if (!player.clip || !width) return;
    const context = canvas.getContext("2d"), step = canvas.width / player.count, marked = getComputedStyle(canvas).borderColor;
    this.tracks.forEach((track, n) => {
      const y = n * h;
      if (track.id === this.chosen) {
        context.fillStyle = marked;
        context.fillRect(0, y, canvas.width, h);
      }
      context.fillStyle = css(track.id);
      for (let p = 0; p < player.count; p++) {
        const score = track.at.get(player.indexAt(p));
        if (score === undefined) continue;
        context.globalAlpha = 0.35 + 0.65 * Math.max(0, Math.min(1, score));
        context.fillRect(Math.floor(p * step), y + h * 0.22, Math.ceil(step), h * 0.56);
      }
      context.globalAlpha = 1;
    });
  }
}
