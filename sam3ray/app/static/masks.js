// Pictures of masks, painted by a worker and kept for the frames near the playhead.

import { rgb } from "./colours.js";

const KEPT = 48;

class Masks {
  waiting = new Map(); // number of a request -> what resolves its promise
  kept = new Map(); // key -> promise
  next = 0;

  // Begins with the first masks.
  get worker() {
    if (!this.painter) {
      this.painter = new Worker(new URL("./mask_worker.js", import.meta.url), { type: "module" });
      this.painter.onmessage = ({ data: { id, painted } }) => {
        this.waiting.get(id)(painted);
        this.waiting.delete(id);
      };
    }
    return this.painter;
  }

  // A bitmap and its place [x, y, width, height] in the frame, null where there is nothing.
  // rows: [{id, rle, box, faint}]; `key` names everything that the picture depends on.
  paint(key, rows, { width, height, grain, opacity }) {
    if (!rows.length) return null;
    const painted = this.kept.get(key) ?? new Promise((resolve) => {
      this.waiting.set(++this.next, resolve);
      const objects = rows.map(({ id, rle, box, faint }) => ({
        rle, box, colour: rgb(id), fill: opacity * (faint ? 0.35 : 1), edge: Math.min(1, opacity * 2.2) * (faint ? 0.5 : 1),
      }));
      this.worker.postMessage({ id: this.next, width, height, grain, objects });
    });
    this.kept.delete(key);
    this.kept.set(key, painted); // the last to go
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return painted;
  }
}

export const masks = new Masks();

// A row as the server sends it.
export function row([id, prompt, score, track, x0, y0, x1, y1, area, rle]) {
  return { id, prompt, score, track, box: [x0, y0, x1, y1], area, rle };
}

// Adds frames to rows by frame. renumber: of their rows, where ids have changed since they were asked for.
export function rowsByFrame(frames, rows = new Map(), renumber = (each) => each) {
  for (const { i, o } of frames) rows.set(i, merged(rows.get(i) ?? [], o.map(row).map(renumber)));
  return rows;
}

// Rows whose ids lie above a number, moved up.
export const above = (base, up) => (each) => (each.id > base && up > 0 ? { ...each, id: each.id + up } : each);

// Rows of one frame, where later ones replace those of the same object.
export function merged(before, rows) {
  const fresh = new Set(rows.map((each) => each.id));
  return [...before.filter((each) => !fresh.has(each.id)), ...rows].sort((a, b) => a.id - b.id);
}
