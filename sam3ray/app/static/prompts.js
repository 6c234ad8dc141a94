// Clicks and boxes: which object they are for, how they are drawn, what the server is sent.

import { css } from "./colours.js";

const DRAG = 6; // pixels of the screen from which a press is a box

export class Prompts {
  constructor(player, work, changed, asked) {
    Object.assign(this, { player, work, changed, asked });
    this.exclude = false;
    this.pointer = null;
    this.drag = null;
    this.onExclude = () => {};
    this.like = false; // boxes show a concept instead of an object
    const { over } = player;
    over.addEventListener("contextmenu", (event) => event.preventDefault());
    over.addEventListener("pointermove", (event) => this.move(event));
    over.addEventListener("pointerleave", () => { this.pointer = null; });
    over.addEventListener("pointerdown", (event) => this.down(event));
    over.addEventListener("pointerup", (event) => this.up(event));
  }

  setExclude(on) { this.exclude = on; this.onExclude(on); }

  // The pointer

  down(event) {
    if (!this.work()) return;
    this.player.pause();
    this.player.over.setPointerCapture(event.pointerId);
    this.drag = { from: this.player.at(event), x: event.clientX, y: event.clientY, right: event.button === 2 };
  }

  move(event) {
    if (!this.work()) return;
    this.pointer = this.player.at(event);
    if (!this.drag) return;
    this.drag.moved ||= Math.hypot(event.clientX - this.drag.x, event.clientY - this.drag.y) > DRAG;
    if (this.drag.moved && !this.drag.right) {
      this.drag.to = this.pointer ?? this.drag.to;
      this.player.redraw();
    }
  }

  up(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag?.from) return;
    if (drag.moved && !drag.right && drag.to) {
      const [a, b] = [drag.from, drag.to];
      const box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
      if (box[2] - box[0] < 1 || box[3] - box[1] < 1) return;
      if (this.like) this.addExemplar(box);
      else this.add({ box });
      return;
    }
    const at = this.player.at(event);
    if (at) this.add({ point: at, positive: !(drag.right || this.exclude) });
  }

  atPointer(positive) {
    if (this.pointer) this.add({ point: this.pointer, positive });
  }

  // Objects

  highest(work) { return Math.max(0, ...work.own.map((each) => each.id)); }

  // The object that a prompt is for: the chosen one, else a new one.
  target(work) {
    const own = work.own.find((each) => each.id === work.chosen);
    if (own) return own;
    const found = work.chosen !== null && [...work.rows.values()].some((rows) => rows.some((row) => row.id === work.chosen));
    if (found) {
      let held = work.refinements.find((each) => each.id === work.chosen);
      if (!held) work.refinements.push((held = { id: work.chosen, prompts: new Map() }));
      return held;
    }
    const id = this.highest(work) + 1;
    this.makeRoom(work, id);
    const made = { id, label: `object ${id}`, prompts: new Map() };
    work.own.push(made);
    work.chosen = id;
    return made;
  }

  // Objects of phrases count up from above one's own: those that are shown move up as they will in the next run.
  makeRoom(work, id) {
    const shift = id - work.base;
    if (shift <= 0) return;
    const moved = (row) => (row.id > work.base ? { ...row, id: row.id + shift } : row);
    for (const map of [work.rows, work.shown]) for (const [index, rows] of map) map.set(index, rows.map(moved));
    for (const each of work.refinements) each.id += shift;
    work.base = id;
    work.version++;
    this.moved?.();
  }

  add({ point, positive, box }) {
    const work = this.work(), index = this.player.index;
    const object = this.target(work);
    if (!object.prompts.has(index)) object.prompts.set(index, { points: [], labels: [], box: null });
    const held = object.prompts.get(index);
    if (box) held.box = box.map((v) => Math.round(v * 100) / 100);
    else {
      held.points.push(point.map((v) => Math.round(v * 100) / 100));
      held.labels.push(positive ? 1 : 0);
    }
    this.changed();
    this.asked(index);
  }

  // A box around one thing of a kind: everything like it is looked for.
  addExemplar(box) {
    const work = this.work(), frame = this.player.index;
    let held = work.exemplars.find((each) => each.frame === frame);
    if (!held) work.exemplars.push((held = { frame, units: "pixels", label: "like the box", boxes: [], labels: [] }));
    held.boxes.push(box.map((v) => Math.round(v * 100) / 100));
    held.labels.push(this.exclude ? 0 : 1);
    this.changed();
    this.asked(frame);
  }

  finish() {
    const work = this.work();
    if (!work) return;
    work.chosen = null;
    this.setExclude(false);
    this.changed();
  }

  clear() {
    const work = this.work(), index = this.player.index;
    const object = [...work.own, ...work.refinements].find((each) => each.id === work.chosen);
    if (!object) return;
    object.prompts.delete(index);
    this.forget(work, object.id, index);
    if (!object.prompts.size) this.remove(object.id);
    else { this.changed(); this.asked(index); }
  }

  remove(id) {
    const work = this.work();
    for (const index of work.shown.keys()) this.forget(work, id, index);
    work.own = work.own.filter((each) => each.id !== id);
    work.refinements = work.refinements.filter((each) => each.id !== id);
    if (work.chosen === id) work.chosen = null;
    this.changed();
  }

  forget(work, id, index) {
    const rows = work.shown.get(index);
    if (rows) work.shown.set(index, rows.filter((row) => row.id !== id));
    work.version++;
  }

  about(object) {
    let clicks = 0, boxes = 0;
    for (const held of object.prompts.values()) { clicks += held.points.length; boxes += held.box ? 1 : 0; }
    return [clicks && `${clicks} click${clicks > 1 ? "s" : ""}`, boxes && `${boxes} box${boxes > 1 ? "es" : ""}`].filter(Boolean).join(", ");
  }

  // For the server. Of one frame (a preview), objects of phrases come with the mask that is to be refined.
  payload(work, only = null, rows = []) {
    const base = this.highest(work), shift = base - work.base;
    const items = (object, id) => [...object.prompts].filter(([index]) => only === null || index === only).sort(([a], [b]) => a - b).flatMap(([index, held]) => {
      const about = { object_id: id, frame: index, units: "pixels", ...(object.label ? { label: object.label } : {}) };
      return [
        ...(held.box ? [{ ...about, box: held.box }] : []),
        ...(held.points.length ? [{ ...about, points: held.points, labels: held.labels }] : []),
      ];
    });
    const visual = work.own.flatMap((each) => items(each, each.id));
    let refinements = work.refinements.flatMap((each) => items(each, each.id + shift));
    if (only !== null) {
      const { height, width } = work.clip;
      for (const each of work.refinements) {
        const shown = rows.find((row) => row.id === each.id), own = items(each, each.id);
        if (!own.length) continue;
        const mask = shown ? [{ object_id: each.id, frame: only, label: shown.prompt, mask: { size: [height, width], counts: shown.rle } }] : [];
        visual.push(...mask, ...own.map((item) => ({ ...item, ...(shown ? { label: shown.prompt } : {}) })));
      }
      refinements = [];
    }
    return { visual, refinements };
  }

  restore(work, visual, refinements) {
    const put = (list, item, label) => {
      let object = list.find((each) => each.id === item.object_id);
      if (!object) list.push((object = { id: item.object_id, ...(label ? { label: item.label ?? `object ${item.object_id}` } : {}), prompts: new Map() }));
      if (!object.prompts.has(item.frame)) object.prompts.set(item.frame, { points: [], labels: [], box: null });
      const held = object.prompts.get(item.frame);
      if (item.box) held.box = item.box;
      if (item.points) { held.points.push(...item.points); held.labels.push(...item.labels); }
    };
    for (const item of visual) put(work.own, item, true);
    for (const item of refinements) put(work.refinements, item, false);
  }

  frameShown() {}

  draw(context, scale, index) {
    const work = this.work();
    if (!work) return;
    const dpr = window.devicePixelRatio || 1;
    for (const object of [...work.own, ...work.refinements]) {
      const held = object.prompts.get(index);
      if (!held) continue;
      const colour = css(object.id);
      if (held.box) this.box(context, held.box, scale, colour, dpr);
      held.points.forEach(([x, y], n) => this.dot(context, x * scale, y * scale, held.labels[n], object.id === work.chosen, dpr));
    }
    for (const each of work.exemplars ?? []) {
      if (each.frame === index) each.boxes.forEach((box, n) => this.box(context, box, scale, each.labels[n] ? "#facc15" : "#dc2626", dpr));
    }
    if (this.drag?.moved && this.drag.to && !this.drag.right) {
      const [a, b] = [this.drag.from, this.drag.to];
      this.box(context, [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])], scale, "#fff", dpr);
    }
  }

  box(context, [x0, y0, x1, y1], scale, colour, dpr) {
    context.setLineDash([6 * dpr, 4 * dpr]);
    context.lineWidth = 3.5 * dpr;
    context.strokeStyle = "rgb(0 0 0 / .6)";
    context.strokeRect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    context.lineWidth = 2 * dpr;
    context.strokeStyle = colour;
    context.strokeRect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    context.setLineDash([]);
  }

  dot(context, x, y, positive, chosen, dpr) {
    const r = (chosen ? 7 : 5) * dpr;
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

