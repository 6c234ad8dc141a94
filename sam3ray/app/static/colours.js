// The colours of the annotated videos: the same object has the same colour everywhere.

const GOLDEN = 0.618033988749895;
const TONES = [[0.85, 1.0], [0.6, 0.95], [0.95, 0.8]];

export function rgb(id) {
  const [s, v] = TONES[id % 3];
  const h = (id * GOLDEN) % 1;
  const f = (n) => {
    const k = (n + h * 6) % 6;
    return Math.round(255 * (v - v * s * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [f(5), f(3), f(1)];
}

export const css = (id) => `rgb(${rgb(id).join(" ")})`;
export const ink = (id) => {
  const [r, g, b] = rgb(id);
  return 0.299 * r + 0.587 * g + 0.114 * b > 150 ? "#111" : "#fff";
};
