// A picture, and over it what was found on it and asked of it, as large as there is room.

import { css, ink } from "./colours.js";
import { el } from "./dom.js";
import { masks } from "./masks.js";

export class Stage {
  // node: an empty .stage. label: of what one points at.
  constructor(node, label) {
    this.node = node;
    this.size = null; // of the video, in pixels
    this.picture = el("canvas", { class: "picture" });
    this.over = el("canvas", { class: "over", tabIndex: 0, ariaLabel: label });
    node.replaceChildren(this.picture, this.over);
    this.redraw = () => {};
    new ResizeObserver(() => this.fit()).observe(node);
  }

  // Pixels of the canvas for one of the screen.
  get dpr() { return window.devicePixelRatio || 1; }
  get scale() { return this.over.width / this.size.width; }

  setSize({ width, height }) {
    this.size = { width, height };
    this.fit();
  }

  fit() {
    if (!this.size) return;
    const room = this.node.getBoundingClientRect(), { size, dpr } = this;
    const scale = Math.min(room.width / size.width, room.height / size.height);
    const [width, height] = [size.width, size.height].map((each) => Math.max(1, Math.round(each * scale)));
    for (const { style } of [this.picture, this.over]) Object.assign(style, { width: `${width}px`, height: `${height}px` });
    resize(this.over, Math.round(width * dpr), Math.round(height * dpr));
    this.redraw();
  }

  // Where a pointer is, in pixels of the video; null beside it.
  at(event) {
    if (!this.size) return null;
    const box = this.over.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.size.width, y = ((event.clientY - box.top) / box.height) * this.size.height;
    return x < 0 || y < 0 || x > this.size.width || y > this.size.height ? null : [x, y];
  }

  // The masks, no finer than the screen shows them. They are kept, so it can be called before they are needed.
  paint(key, rows, opacity) {
    const grain = Math.max(1, Math.floor(1 / this.scale));
    return masks.paint(`${key} ${grain}`, rows, { ...this.size, grain, opacity });
  }

  // key: names all that the masks depend on. Returns whether it was drawn: not if something newer is.
  async show(bitmap, rows, { key, opacity = 0.5, labels = true, decorate = () => {} }) {
    const turn = (this.turn = {}), { over, scale } = this, painted = await this.paint(key, rows, opacity);
    if (turn !== this.turn) return false;
    resize(this.picture, bitmap.width, bitmap.height);
    this.picture.getContext("2d").drawImage(bitmap, 0, 0);
    const context = over.getContext("2d");
    context.clearRect(0, 0, over.width, over.height);
    if (painted) context.drawImage(painted.bitmap, ...painted.place.map((each) => each * scale));
    if (labels) for (const row of rows) this.label(context, row);
    decorate(context);
    over.dataset.objects = rows.map((row) => row.id).join(" ");
    return true;
  }

  label(context, row) {
    const { dpr, scale } = this, size = 12 * dpr, height = size * 1.6;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    const text = `${row.id} ${row.prompt.slice(0, 40)}${row.score < 0.995 ? ` ${row.score.toFixed(2)}` : ""}`;
    const width = context.measureText(text).width + size;
    const x = Math.max(0, Math.min(row.box[0] * scale, context.canvas.width - width));
    const y = Math.max(0, row.box[1] * scale - height - 2 * dpr);
    context.globalAlpha = row.faint ? 0.5 : 0.92;
    context.fillStyle = css(row.id);
    context.beginPath();
    context.roundRect(x, y, width, height, height / 3);
    context.fill();
    context.fillStyle = ink(row.id);
    context.fillText(text, x + size / 2, y + height / 2);
    context.globalAlpha = 1;
  }

  box(context, [x0, y0, x1, y1], colour) {
    const { dpr, scale } = this;
    context.setLineDash([6 * dpr, 4 * dpr]);
    context.beginPath();
    context.rect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    this.outline(context, 2, colour);
    context.setLineDash([]);
  }

  ring(context, [x, y], radius) {
    context.beginPath();
    context.arc(x * this.scale, y * this.scale, radius * this.scale, 0, 7);
    this.outline(context, 1.5, "#fff");
  }

  // Dark below, so that it is seen on any picture.
  outline(context, wide, colour) {
    for (const [width, style] of [[wide + 1.5, "rgb(0 0 0 / .6)"], [wide, colour]]) {
      context.lineWidth = width * this.dpr;
      context.strokeStyle = style;
      context.stroke();
    }
  }

  // A click: green with a plus, or red with a minus.
  click(context, [px, py], positive, chosen) {
    const { dpr, scale } = this, x = px * scale, y = py * scale, r = (chosen ? 7 : 5) * dpr;
    context.beginPath();
    context.arc(x, y, r, 0, 7);
    context.fillStyle = positive ? "#16a34a" : "#dc2626";
    context.fill();
    context.lineWidth = 2 * dpr;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(x - r / 2, y);
    context.lineTo(x + r / 2, y);
    if (positive) { context.moveTo(x, y - r / 2); context.lineTo(x, y + r / 2); }
    context.stroke();
  }
}

function resize(canvas, width, height) {
  if (canvas.width === width && canvas.height === height) return;
  canvas.width = width;
  canvas.height = height;
}
