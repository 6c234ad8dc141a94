// A mask painted by hand, at the video's own resolution. Loaded when somebody takes the brush.

import { css } from "./colours.js";
import { el } from "./dom.js";
import { merged } from "./masks.js";
import { decode } from "./rle.js";

export class Brush {
  object = null; // whose mask is being painted, on a frame of a work: meanwhile it is this canvas
  canvas = el("canvas", { class: "paint" });
  context = this.canvas.getContext("2d", { willReadFrequently: true });

  // prompts: see prompts.js.
  constructor(prompts) { this.prompts = prompts; }

  // A stroke stays on the frame that it began on.
  paint(frame, from, to, erases) {
    const { context, prompts } = this, { player, view, work } = prompts;
    if (this.object === null || this.work !== work) {
      Object.assign(this, { work, frame, object: prompts.target() });
      this.begin(player.stage.size, view.rowsAt(frame).find((row) => row.id === this.object));
    }
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.strokeStyle = css(this.object);
    context.lineWidth = prompts.size;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]); // a line without length would not be drawn
    context.stroke();
    player.redraw();
  }

  // With the mask that the object has: row, if any.
  begin({ width, height }, row) {
    const { context } = this;
    Object.assign(this.canvas, { width, height }); // empty
    if (!row) return;
    const bits = decode(row.rle, height, [0, 0, width, height]), image = context.createImageData(width, height);
    new Uint32Array(image.data.buffer).forEach((_, n, pixels) => { pixels[n] = bits[(n % width) * height + Math.floor(n / width)] ? 0xffffffff : 0; });
    context.putImageData(image, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = css(this.object);
    context.fillRect(0, 0, width, height);
  }

  // Makes what was painted the object's mask on this frame.
  keep() {
    const { prompts, object: id, frame, work } = this, { view } = prompts, { width, height } = this.canvas;
    this.object = null;
    if (id === null || work !== prompts.work) return;
    const rows = view.rowsAt(frame), painted = this.row();
    work.items = work.items.filter((each) => each.object_id !== id || each.frame !== frame); // a mask starts over
    if (!painted) { prompts.clear(id, frame); return; }
    const prompt = work.own.get(id) ?? rows.find((each) => each.id === id)?.prompt ?? "";
    work.items.push({ object_id: id, frame, mask: { size: [height, width], counts: painted.rle } });
    work.shown.set(frame, merged(rows, [{ ...painted, id, prompt, score: 1, track: 1 }])); // until the model has answered
    work.version++;
    prompts.told(frame);
  }

  // null if there is nothing left.
  row() {
    const { width, height } = this.canvas, { data } = this.context.getImageData(0, 0, width, height);
    const bits = new Uint8Array(width * height), box = [width, height, 0, 0];
    let area = 0;
    for (let n = 0; n < bits.length; n++) {
      if (data[4 * n + 3] < 128) continue;
      const x = n % width, y = (n - x) / width;
      bits[x * height + y] = 1;
      area++;
      if (x < box[0]) box[0] = x;
      if (y < box[1]) box[1] = y;
      if (x >= box[2]) box[2] = x + 1;
      if (y >= box[3]) box[3] = y + 1;
    }
    return area ? { box, area, rle: encode(bits) } : null;
  }
}

// COCO's run lengths of a whole frame's bytes, 0 or 1, column by column.
export function encode(bits) {
  const counts = [];
  let value = 0, length = 0;
  for (const bit of bits) {
    if (bit === value) length++;
    else { counts.push(length); value = bit; length = 1; }
  }
  counts.push(length);
  let text = "";
  counts.forEach((count, n) => {
    let x = n > 2 ? count - counts[n - 2] : count, more = true;
    while (more) {
      let c = x & 31;
      x >>= 5;
      more = c & 16 ? x !== -1 : x !== 0;
      if (more) c |= 32;
      text += String.fromCharCode(c + 48);
    }
  });
  return text;
}
