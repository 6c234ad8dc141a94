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

// The mask within a box [x0, y0, x1, y1) as bytes, row by row.
export function decode(text, height, [x0, y0, x1, y1]) {
  const width = x1 - x0, bits = new Uint8Array(width * (y1 - y0));
  let at = 0, on = false;
  for (const length of runs(text)) {
    if (on) {
      for (let p = at, end = at + length; p < end; ) {
        const x = Math.floor(p / height), top = p - x * height;
        const stop = Math.min(height, top + end - p);
        if (x >= x0 && x < x1) {
          for (let y = Math.max(top, y0), last = Math.min(stop, y1); y < last; y++) bits[(y - y0) * width + x - x0] = 1;
        }
        p += stop - top;
      }
    }
    at += length;
    on = !on;
  }
  return bits;
}

export function encode(bits, height, width) {
  const counts = [];
  let value = 0, length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const bit = bits[y * width + x] ? 1 : 0;
      if (bit === value) length++;
      else { counts.push(length); value = bit; length = 1; }
    }
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
