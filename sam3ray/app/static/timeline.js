// Objects by frames: where each is seen, how surely, and where it is missing.

import { css } from "./colours.js";
import { el } from "./dom.js";

const ROW = 18;

export class Timeline extends EventTarget {
  // player: for the playhead and the clip.
  constructor(player) {
    super();
    this.player = player;
    this.tracks = [];
    this.chosen = null;
    this.names = el("div", { class: "names" });
    this.canvas = el("canvas", { class: "tracks", "aria-label": "Timeline of the objects" });
    this.node = el("div", { class: "timeline" }, this.names, this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.seek(event);
      const { track } = this.under(event);
      if (track) this.dispatchEvent(new CustomEvent("choose", { detail: track.id }));
    });
    this.canvas.addEventListener("pointermove", (event) => event.buttons && this.seek(event));
    player.addEventListener("frame", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const position = Math.floor(((event.clientX - box.left) / box.width) * this.player.count);
    return { position, track: this.tracks[Math.floor((event.clientY - box.top) / ROW)] };
  }

  seek(event) {
    this.player.pause();
    this.player.show(Math.max(0, Math.min(this.player.count - 1, this.under(event).position)));
  }

  // rows: Map index -> rows
  set(rows) {
    const tracks = new Map();
    for (const [index, each] of rows) {
      for (const row of each) {
        if (!tracks.has(row.id)) tracks.set(row.id, { id: row.id, prompt: row.prompt, score: row.score, at: new Map() });
        tracks.get(row.id).at.set(index, row.track);
      }
    }
    this.tracks = [...tracks.values()].sort((a, b) => a.id - b.id);
    this.names.replaceChildren(...this.tracks.map((track) => el("button", {
      class: `name ${track.id === this.chosen ? "chosen" : ""}`, title: `${track.prompt}: ${track.at.size} frames`,
      onclick: () => this.dispatchEvent(new CustomEvent("choose", { detail: track.id })),
    }, el("i", { class: "dot", style: { background: css(track.id) } }), `${track.id} ${track.prompt}`)));
    this.draw();
  }

  choose(id) {
    this.chosen = id;
    [...this.names.children].forEach((node, n) => node.classList.toggle("chosen", this.tracks[n].id === id));
    this.draw();
  }

  draw() {
    const { player, canvas } = this, dpr = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = Math.max(1, this.tracks.length) * ROW;
    canvas.style.height = `${height}px`;
    canvas.width = Math.max(1, width * dpr);
    canvas.height = height * dpr;
    if (!player.clip || !width) return;
    const context = canvas.getContext("2d"), step = canvas.width / player.count;
    const style = getComputedStyle(canvas);
    this.tracks.forEach((track, n) => {
      const y = n * ROW * dpr, h = ROW * dpr;
      if (track.id === this.chosen) {
        context.fillStyle = style.borderColor;
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
    context.fillStyle = style.color;
    context.fillRect(Math.round((player.position + 0.5) * step - dpr), 0, 2 * dpr, canvas.height);
  }
}
