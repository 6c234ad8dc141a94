// A mask painted by hand, at the video's own resolution.

import { css } from "./colours.js";
import { decode, encode } from "./rle.js";

export class Brush {
  size = 24; // pixels of the video
  object = null; // whose mask is being painted

  // Begins with the mask that the object has: row, if any.
  begin(object, { width, height }, row) {
    this.object = object;
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (row) {
      const bits = decode(row.rle, height, [0, 0, width, height]), image = this.context.createImageData(width, height);
      new Uint32Array(image.data.buffer).forEach((_, n, pixels) => { pixels[n] = bits[(n % width) * height + Math.floor(n / width)] ? 0xffffffff : 0; });
      this.context.putImageData(image, 0, 0);
      this.context.globalCompositeOperation = "source-in";
      this.context.fillStyle = css(object);
      this.context.fillRect(0, 0, width, height);
    }
  }

  stroke(from, to, erases) {
    const { context } = this;
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.strokeStyle = css(this.object);
    context.lineWidth = this.size;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]); // a line without length would not be drawn
    context.stroke();
  }

  // Over what is shown, in the same place.
  draw(context) {
    context.globalAlpha = 0.6;
    context.drawImage(this.canvas, 0, 0, context.canvas.width, context.canvas.height);
    context.globalAlpha = 1;
  }

  // Ends it: what was painted as a row; null if there is nothing left.
  end(label) {
    const { width, height } = this.canvas, { data } = this.context.getImageData(0, 0, width, height);
    const bits = new Uint8Array(width * height), box = [width, height, 0, 0], id = this.object;
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
    this.object = null;
    return area ? { id, prompt: label, score: 1, track: 1, box, area, rle: encode(bits) } : null;
  }
}
