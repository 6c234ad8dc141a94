// Paints the masks of a frame into one picture, away from the page's own thread.

import { decode } from "./rle.js";

// grain: of how many pixels of the frame, across and down, one is painted.
onmessage = async ({ data: { id, width, height, grain, objects } }) => {
  const boxes = objects.map(({ box: [x0, y0, x1, y1] }) => [
    Math.max(0, Math.floor(x0)), Math.max(0, Math.floor(y0)), Math.min(width, Math.ceil(x1)), Math.min(height, Math.ceil(y1)),
  ]);
  const least = (n) => Math.floor(Math.min(...boxes.map((box) => box[n])) / grain);
  const size = (from, n) => Math.max(1, Math.ceil(Math.max(...boxes.map((box) => box[n])) / grain) - from);
  const left = least(0), top = least(1), w = size(left, 2), h = size(top, 3), half = grain >> 1;
  const pixels = new Uint32Array(w * h), thick = Math.max(1, Math.round(Math.min(width, height) / 400));
  objects.forEach(({ rle, colour: [r, g, b], fill, edge }, n) => {
    const [x0, y0, x1, y1] = boxes[n], tall = y1 - y0, side = thick * tall;
    if (x1 <= x0 || tall <= 0) return;
    const bits = decode(rle, height, boxes[n]), colour = r | (g << 8) | (b << 16), alphas = [fill, edge].map((part) => Math.round(255 * part));
    const column = Math.max(left, Math.ceil((x0 - half) / grain)), row = Math.max(top, Math.ceil((y0 - half) / grain));
    for (let i = column, x = i * grain + half - x0; x < x1 - x0; i++, x += grain) {
      for (let y = row * grain + half - y0, at = (row - top) * w + i - left; y < tall; y += grain, at += w) {
        const p = x * tall + y;
        if (!bits[p]) continue;
        const border = y < thick || y >= tall - thick || !bits[p - thick] || !bits[p + thick] || !bits[p - side] || !bits[p + side];
        pixels[at] = colour | (Math.max(pixels[at] >>> 24, alphas[+border]) << 24);
      }
    }
  });
  const bitmap = await createImageBitmap(new ImageData(new Uint8ClampedArray(pixels.buffer), w, h));
  postMessage({ id, painted: { bitmap, place: [left, top, w, h].map((each) => each * grain) } }, [bitmap]);
};
