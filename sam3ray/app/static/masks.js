// Pictures of masks, kept for the frames near the playhead.

import { rgb } from "./colours.js";

const KEPT = 48;

export class Masks {
  constructor() {
    this.worker = new Worker("/static/mask_worker.js", { type: "module" });
    this.waiting = new Map();
    this.kept = new Map();
    this.next = 0;
    this.worker.onmessage = ({ data }) => {
      this.waiting.get(data.id)?.(data.bitmap);
      this.waiting.delete(data.id);
    };
  }

  // rows: [{id, rle, box, faint}]; `key` names everything that the picture depends on.
  paint(key, rows, { width, height, opacity }) {
    if (this.kept.has(key)) {
      const held = this.kept.get(key);
      this.kept.delete(key);
      this.kept.set(key, held);
      return held;
    }
    const painted = new Promise((resolve) => {
      const id = this.next++;
      this.waiting.set(id, resolve);
      const objects = rows.map((row) => ({
        rle: row.rle, box: row.box, colour: rgb(row.id),
        fill: opacity * (row.faint ? 0.35 : 1), edge: Math.min(1, opacity * 2.2) * (row.faint ? 0.5 : 1),
      }));
      this.worker.postMessage({ id, width, height, objects });
    });
    this.kept.set(key, painted);
    if (this.kept.size > KEPT) {
      this.kept.delete(this.kept.keys().next().value);
    }
    return painted;
  }
}

// A row as the server sends it.
export function row([id, prompt, score, track, x0, y0, x1, y1, area, rle]) {
  return { id, prompt, score, track, box: [x0, y0, x1, y1], area, rle };
}
