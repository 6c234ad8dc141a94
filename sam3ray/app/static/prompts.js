// Clicks, boxes, painted masks and examples: which object they are for, how they are drawn, what the server is sent.

import { reached } from "./api.js";
import { css } from "./colours.js";
import { complain, toast } from "./dom.js";
import { merged } from "./masks.js";
import { between, NO_OBJECT, Pointer, rounded } from "./pointer.js";

const KINDS = ["mask", "box", "points"]; // in this order the model gets those of one frame
const rank = (item) => KINDS.findIndex((kind) => kind in item);

// What is asked of a clip, and what was found.
//   own: id -> name, of objects that one has begun oneself. items: prompts as the server takes them.
//   base: objects of phrases have ids above it. rows: frame -> rows, of a run; shown: of previews, instead.
export const newWork = (more) => ({
  phrases: [], own: new Map(), items: [], exemplars: [], chosen: null, base: 0, awaited: new Map(), version: 0, ...nothingFound(), ...more,
});

export const nothingFound = () => ({ rows: new Map(), shown: new Map(), results: [], result: null, asked: null });

export class Prompts {
  // view: see clip_view.js; with renumbered(), where ids of phrases can change. size: of the brush, in pixels of the video.
  constructor(player, view) {
    Object.assign(this, { player, view, tool: "point", exclude: false, corner: null, brush: null, size: 24 });
    this.pointer = new Pointer(player.stage, {
      pressed: () => (player.pause(), Boolean(player.clip && view.work)),
      drawn: (from, to, right) => this.tool === "brush" && this.draw("paint", from, to, right || this.exclude),
      drawnOut: () => this.draw("keep"),
      moved: () => (this.tool === "brush" || this.corner) && player.redraw(),
      click: (at, right) => this.addPoint(at, !(right || this.exclude)),
      box: (box) => this.addBox(box),
    });
  }

  get work() { return this.view.work; }

  // By key, where the pointer is.
  here(what) {
    const { at } = this.pointer;
    if (!at || !this.work) return;
    if (what !== "corner" && this.tool !== "brush") this.addPoint(at, what === "include");
    else if (what !== "corner") { this.draw("paint", at, at, what === "exclude"); this.draw("keep"); }
    else if (this.corner) { this.addBox(between(this.corner, at)); this.corner = null; }
    else this.corner = at;
  }

  // Objects

  // The chosen object is one's own, or a phrase has found it.
  get hasTarget() {
    const { chosen, own, rows, shown } = this.work;
    return own.has(chosen) || (chosen !== null && [...rows.values(), ...shown.values()].some((all) => all.some((row) => row.id === chosen)));
  }

  // The object that a prompt is for: the chosen one, else a new one.
  target() {
    const { work } = this, { own } = work;
    if (this.hasTarget) return work.chosen;
    const id = Math.max(0, ...own.keys()) + 1;
    if (id > work.base) this.rebase(work, id);
    own.set(id, `object ${id}`);
    return (work.chosen = id);
  }

  // Objects of phrases count up from above one's own: all that is shown moves up as it will in the next run.
  rebase(work, base = Math.max(0, ...work.own.keys())) {
    const by = base - work.base, up = (id) => (id > work.base ? id + by : id);
    if (!by) return;
    for (const map of [work.rows, work.shown]) for (const [index, rows] of map) map.set(index, rows.map((row) => ({ ...row, id: up(row.id) })));
    for (const item of work.items) if (!work.own.has(item.object_id)) item.object_id = up(item.object_id);
    work.base = base;
    work.version++;
    this.view.renumbered?.();
  }

  // The target's prompt of this kind on this frame.
  item(kind, fresh) {
    const object_id = this.target(), { items } = this.work, frame = this.player.index;
    let item = items.find((each) => each.object_id === object_id && each.frame === frame && kind in each);
    if (!item) items.push((item = { object_id, frame, ...fresh }));
    return item;
  }

  told(frame) {
    this.view.changed();
    this.view.asked(frame);
  }

  addPoint(at, positive) {
    if (!positive && !this.hasTarget) return toast(NO_OBJECT);
    const item = this.item("points", { units: "pixels", points: [], labels: [] });
    item.points.push(rounded(at));
    item.labels.push(positive ? 1 : 0);
    this.told(item.frame);
  }

  addBox(box) {
    const frame = this.player.index, { exemplars } = this.work;
    if (this.tool === "like") {
      let held = exemplars.find((each) => each.frame === frame);
      if (!held) exemplars.push((held = { frame, units: "pixels", label: "like the box", boxes: [], labels: [] }));
      held.boxes.push(box);
      held.labels.push(this.exclude ? 0 : 1);
    } else this.item("box", { units: "pixels" }).box = box;
    this.told(frame);
  }

  async take(tool) {
    this.tool = tool;
    if (tool === "brush") await this.fetched();
  }

  fetched() {
    return (this.fetching ??= reached(import("./brush.js")).then(({ Brush }) => (this.brush = new Brush(this)), (error) => {
      this.fetching = null;
      throw error;
    }));
  }

  // What is drawn before the brush is there is drawn then.
  draw(what, ...line) {
    const { work, player: { index } } = this;
    this.fetched().then((brush) => work === this.work && brush[what](index, ...line)).catch(complain);
    return true;
  }

  // The object whose mask is being painted on a frame.
  paintedOn(index) {
    const { brush } = this;
    return brush?.frame === index && brush.work === this.work ? brush.object : null;
  }

  // Taking back

  clear(id = this.work.chosen, frame = this.player.index) {
    const { work } = this;
    if (id === null) return;
    work.items = work.items.filter((each) => each.object_id !== id || each.frame !== frame);
    if (!work.items.some((each) => each.object_id === id)) this.remove(id);
    else { this.forget(id, frame); this.told(frame); }
  }

  remove(id) {
    const { work } = this;
    work.own.delete(id);
    work.items = work.items.filter((each) => each.object_id !== id);
    if (work.chosen === id) work.chosen = null;
    for (const index of work.shown.keys()) this.forget(id, index);
    this.view.changed();
  }

  // Of a preview: what the run had found stays.
  forget(id, index) {
    const { work } = this, only = (rows, is) => (rows ?? []).filter((row) => (row.id === id) === is);
    if (work.shown.has(index)) work.shown.set(index, merged(only(work.shown.get(index), false), work.own.has(id) ? [] : only(work.rows.get(index), true)));
    work.version++;
  }

  about(id) {
    const counts = { click: 0, box: 0, mask: 0 };
    for (const { object_id, points, mask } of this.work.items) if (object_id === id) counts[points ? "click" : mask ? "mask" : "box"] += points?.length ?? 1;
    return Object.entries(counts).filter(([, n]) => n).map(([name, n]) => `${n} ${name}${n < 2 ? "" : name === "box" ? "es" : "s"}`).join(", ");
  }

  // For the server: of one's own objects, and of what phrases have found.
  payload(items = this.work.items) {
    const { own } = this.work;
    const sorted = items.toSorted((a, b) => a.object_id - b.object_id || a.frame - b.frame || rank(a) - rank(b));
    return {
      visual: sorted.filter((each) => own.has(each.object_id)).map((each) => ({ ...each, label: own.get(each.object_id) })),
      refinements: sorted.filter((each) => !own.has(each.object_id)),
    };
  }

  // For one frame: an object of a phrase comes with the mask that is refined.
  payloadAt(frame) {
    const { items, clip } = this.work, here = items.filter((each) => each.frame === frame);
    const { visual, refinements } = this.payload(here), seen = new Set();
    for (const item of refinements) {
      const id = item.object_id, row = this.view.rowsAt(frame).find((each) => each.id === id), label = row?.prompt;
      if (row && !item.mask && !seen.has(id)) visual.push({ object_id: id, frame, label, mask: { size: [clip.height, clip.width], counts: row.rle } });
      seen.add(id);
      visual.push({ ...item, label });
    }
    return visual;
  }

  // What is shown of them on a frame, as elements over it.
  marks(index) {
    const { work, corner, brush } = this, { stage } = this.player, { at, box } = this.pointer;
    if (!work) return [];
    const here = (each) => each.frame === index;
    return [
      this.paintedOn(index) !== null && brush.canvas,
      work.items.filter(here).map((item) => item.box && stage.box(item.box, css(item.object_id))),
      work.items.filter(here).map((item) => item.points?.map((point, n) => stage.click(point, item.labels[n], item.object_id === work.chosen))),
      work.exemplars.filter(here).map(({ boxes, labels }) => boxes.map((one, n) => stage.box(one, labels[n] ? "#facc15" : "#dc2626"))),
      box && stage.box(box, "#fff"),
      corner && at && stage.box(between(corner, at), "#fff"),
      this.tool === "brush" && at && stage.ring(at, this.size),
    ].flat(2);
  }
}
