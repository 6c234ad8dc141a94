// Paints the masks of a frame into one picture, away from the page's own thread.

import { decode } from "./rle.js";

onmessage = ({ data: { id, width, height, objects } }) => {
  const pixels = new Uint8ClampedArray(width * height * 4);
  for (const { rle, box, colour, fill, edge } of objects) {
    const x0 = Math.max(0, Math.floor(box[0])), y0 = Math.max(0, Math.floor(box[1]));
    const x1 = Math.min(width, Math.ceil(box[2])), y1 = Math.min(height, Math.ceil(box[3]));
    if (x1 <= x0 || y1 <= y0) continue;
    const bits = decode(rle, height, [x0, y0, x1, y1]);
    const w = x1 - x0, h = y1 - y0, thick = Math.max(1, Math.round(Math.min(width, height) / 400));
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        if (!bits[y * w + x]) continue;
        const border = x < thick || y < thick || x >= w - thick || y >= h - thick ||
          !bits[y * w + x - thick] || !bits[y * w + x + thick] || !bits[(y - thick) * w + x] || !bits[(y + thick) * w + x];
        const at = ((y + y0) * width + x + x0) * 4;
        pixels[at] = colour[0];
        pixels[at + 1] = colour[1];
        pixels[at + 2] = colour[2];
        pixels[at + 3] = Math.max(pixels[at + 3], 255 * (border ? edge : fill));
      }
    }
  }
  createImageBitmap(new ImageData(pixels, width, height)).then((bitmap) => postMessage({ id, bitmap }, [bitmap]));
};
