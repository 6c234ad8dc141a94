// COCO's compressed run lengths: columns from top to bottom, background first.

export function runs(text) {
  const found = [];
  let at = 0;
  while (at < text.length) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const c = text.charCodeAt(at++) - 48;
      value |= (c & 31) << (5 * shift++);
      more = (c & 32) !== 0;
      if (!more && c & 16) value |= -1 << (5 * shift);
    }
    if (found.length > 2) value += found[found.length - 2];
    found.push(value);
  }
  return found;
}

// The mask within a box [x0, y0, x1, y1) as bytes, column by column.
export function decode(text, height, [x0, y0, x1, y1]) {
  const tall = y1 - y0, bits = new Uint8Array((x1 - x0) * tall);
  let at = 0, on = false;
  for (const length of runs(text)) {
    const end = at + length;
    while (on && at < end) {
      const x = Math.floor(at / height), start = x * height, stop = Math.min(end, start + height);
      const from = Math.max(at - start, y0), to = Math.min(stop - start, y1);
      if (x >= x0 && x < x1 && from < to) bits.fill(1, (x - x0) * tall + from - y0, (x - x0) * tall + to - y0);
      at = stop;
    }
    at = end;
    on = !on;
  }
  return bits;
}
