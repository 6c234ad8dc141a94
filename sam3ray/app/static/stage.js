// A picture, and over it what was found on it and asked of it, as large as there is room.

import { css, ink } from "./colours.js";
import { el, fill, unsure } from "./dom.js";
import { masks } from "./masks.js";

export class Stage {
  // node: an empty .stage. label: of what one points at.
  constructor(node, label) {
    this.node = node;
    this.size = null; // of the video, in pixels
    this.picture = el("canvas", { class: "picture" });
    this.over = el("canvas", { class: "over", tabIndex: 0, ariaLabel: label });
    this.marks = el("div", { class: "marks" });
    node.replaceChildren(this.picture, this.over, this.marks);
    this.redraw = () => {};
    new ResizeObserver(() => this.fit()).observe(node);
  }

  get scale() { return this.over.width / this.size.width; }

  setSize({ width, height }) {
    this.size = { width, height };
    this.fit();
  }

  fit() {
    if (!this.size) return;
    const room = this.node.getBoundingClientRect(), { size } = this, dpr = window.devicePixelRatio;
    const scale = Math.min(room.width / size.width, room.height / size.height);
    const [width, height] = [size.width, size.height].map((each) => Math.max(1, Math.round(each * scale)));
    for (const { style } of [this.picture, this.over, this.marks]) Object.assign(style, { width: `${width}px`, height: `${height}px` });
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

  // key: names all that the masks depend on. marks(): elements over them. Returns whether it was drawn: not if something
  // newer is.
  async show(bitmap, rows, { key, opacity = 0.5, labels = true, marks = () => [] }) {
    const turn = (this.turn = {}), { over, scale } = this, painted = await this.paint(key, rows, opacity);
    if (turn !== this.turn) return false;
    resize(this.picture, bitmap.width, bitmap.height);
    this.picture.getContext("2d").drawImage(bitmap, 0, 0);
    const context = over.getContext("2d");
    context.clearRect(0, 0, over.width, over.height);
    if (painted) context.drawImage(painted.bitmap, ...painted.place.map((each) => each * scale));
    fill(this.marks, labels && rows.map((row) => this.label(row)), marks());
    over.dataset.objects = rows.map((row) => row.id).join(" ");
    return true;
  }

  // Marks lie where they are on the video, in parts of it.

  mark(kind, [x0, y0, x1 = x0, y1 = y0], style, ...more) {
    const x = (value) => `${(100 * value) / this.size.width}%`, y = (value) => `${(100 * value) / this.size.height}%`;
    return el("i", { class: kind, style: { "--x": x(x0), "--y": y(y0), "--width": x(x1 - x0), "--height": y(y1 - y0), ...style } }, ...more);
  }

  label({ id, prompt, score, faint, box }) {
    const style = { "--colour": css(id), "--ink": ink(id) };
    return this.mark(`label ${faint ? "faint" : ""}`, box, style, el("b", {}, `${id} ${prompt.slice(0, 40)}${unsure(score, " ")}`));
  }

  box(box, colour) { return this.mark("box", box, { "--colour": colour }); }
  ring([x, y], size) { return this.mark("ring", [x, y, x + size, y]); }
  click(at, positive, chosen) { return this.mark(`click ${positive ? "plus" : "minus"} ${chosen ? "chosen" : ""}`, at, {}, positive ? "+" : "−"); }
}

function resize(canvas, width, height) {
  if (canvas.width === width && canvas.height === height) return;
  canvas.width = width;
  canvas.height = height;
}
