// One clip: exact frames, counted by the server's decoder, with what lies over them.

import { getBlob } from "./api.js";
import { attach, complain, put } from "./dom.js";
import { Stage } from "./stage.js";

const KEPT = 120, AHEAD = 10;

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(2).padStart(5, "0")}`;
}

// Event `frame`, with its bitmap, when another one is shown.
export class Player extends EventTarget {
  // view: see clip_view.js.
  constructor(view) {
    super();
    Object.assign(this, { view, clip: null, opacity: 0.5, labels: true, only: null, position: 0, wanted: 0 });
    this.pictures = new Map(); // position -> promise of a bitmap
    this.node = attach(this, "player");
    this.stage = new Stage(this.screen, "The frame. Click to point at an object");
    this.stage.redraw = () => this.redraw();
  }

  get count() { return this.clip ? this.clip.times.length : 0; }
  get index() { return this.indexAt(this.position); }
  indexAt(position) { return this.clip.indices ? this.clip.indices[position] : position; }

  // The position of a frame, -1 where the clip leaves it out.
  positionOf(index) {
    if (this.clip.indices) return this.clip.indices.indexOf(index);
    return index >= 0 && index < this.count ? index : -1;
  }

  nearest(index) {
    if (!this.clip.indices) return Math.max(0, Math.min(this.count - 1, index));
    const away = this.clip.indices.map((each) => Math.abs(each - index));
    return away.indexOf(Math.min(...away));
  }

  // While another clip is opened: nothing of this one is drawn again.
  close() {
    this.pause();
    this.clip = this.showing = null;
    this.stage.turn = null;
    this.stage.picture.dataset.frame = "";
  }

  async load(clip, position = 0) {
    this.close();
    Object.assign(this, { clip, position });
    this.pictures.clear(); // not closed: one may be being drawn
    this.only = null;
    this.slider.max = this.count - 1;
    this.number.max = this.indexAt(this.count - 1);
    this.stage.setSize(clip);
    await this.show(position);
  }

  fetch(position) {
    if (!this.pictures.has(position)) {
      this.pictures.set(position, fetchPicture(this.clip, position));
      const far = [...this.pictures.keys()].find((each) => Math.abs(each - position) > AHEAD * 2);
      if (this.pictures.size > KEPT && far !== undefined) this.pictures.delete(far);
    }
    return this.pictures.get(position);
  }

  // Draws a frame. While one is being drawn, only the latest that is asked for waits: a drag over the bar shows those
  // on its way as fast as they come.
  show(position) {
    if (!this.clip || Number.isNaN(position)) return null;
    this.wanted = Math.round(Math.max(0, Math.min(this.count - 1, position)));
    return (this.showing ??= this.catchUp());
  }

  showIndex(index) { if (this.clip) this.show(this.nearest(index)); }

  async catchUp() {
    const { clip } = this;
    try {
      for (let position = null; position !== this.wanted && this.clip === clip; ) await this.draw((position = this.wanted));
    } finally {
      if (this.clip === clip) this.showing = null; // else it is the next clip's
    }
  }

  async draw(position) {
    const { clip } = this, coming = this.fetch(position), { rows, key } = this.layer(this.indexAt(position));
    this.stage.paint(key, rows, this.opacity); // while the picture comes
    let bitmap;
    try {
      bitmap = await coming;
    } catch (error) {
      this.pictures.delete(position);
      if (this.clip !== clip || this.wanted !== position) return;
      complain(error);
      this.wanted = this.position; // which stays on the screen
      return;
    }
    if (this.clip !== clip) return;
    this.position = position;
    this.slider.value = this.wanted; // while it is dragged, frames on its way are shown
    put(this.number, this.index);
    this.time.textContent = `${clock(clip.times[position])} / ${clock(clip.times.at(-1))}`;
    await this.paint(bitmap);
    this.dispatchEvent(new CustomEvent("frame", { detail: bitmap }));
  }

  // What lies over a frame, and the name of its picture.
  layer(index) {
    const { clip, opacity, only, view } = this, painted = view.prompts.paintedOn(index);
    const rows = view.rowsAt(index).filter(({ id }) => id !== painted && (only === null || id === only));
    return { rows, key: [clip.key, index, view.keyOf(index), painted, opacity, only].join() };
  }

  async paint(bitmap) {
    const { clip, index, opacity, labels } = this, { rows, key } = this.layer(index);
    const drawn = await this.stage.show(bitmap, rows, { key, opacity, labels, marks: () => this.view.prompts.marks(index) });
    if (drawn && clip === this.clip) this.stage.picture.dataset.frame = index;
  }

  async redraw() {
    const { clip, position } = this, bitmap = await this.pictures.get(position)?.catch(() => null);
    if (clip && bitmap && clip === this.clip && position === this.position) await this.paint(bitmap);
  }

  async play() {
    const run = (this.playing = {});
    this.playButton.textContent = "⏸";
    if (this.position >= this.count - 1) await this.show(0);
    const { times } = this.clip;
    let from = performance.now() / 1000 - times[this.position];
    while (this.playing === run && this.position < this.count - 1) {
      const now = performance.now() / 1000 - from;
      let next = this.position + 1;
      while (next < this.count - 1 && times[next + 1] <= now) next++; // late: frames are left out, never shifted
      for (let n = next; n < Math.min(this.count, next + AHEAD); n++) this.fetch(n).catch(() => {});
      if (times[next] > now) await new Promise((done) => setTimeout(done, (times[next] - now) * 1000));
      if (this.playing !== run) return;
      const before = performance.now();
      await this.show(next);
      if (this.position !== next) break;
      if (performance.now() - before > 400) from = performance.now() / 1000 - times[next];
    }
    if (this.playing === run) this.pause();
  }

  pause() {
    this.playing = null;
    this.playButton.textContent = "▶";
  }

  // Controls

  toggle() {
    if (this.playing) this.pause();
    else if (this.clip) this.play();
  }

  step({ value }) {
    this.pause();
    this.show(this.wanted + Number(value));
  }

  scrub() { this.show(Number(this.slider.value)); }
  goTo() {
    const index = Number(this.number.value);
    this.number.blur();
    this.showIndex(index);
  }

  toggleLabels() {
    this.labels = !this.labels;
    this.redraw();
  }
}

async function fetchPicture({ key, missing, width, height }, position) {
  if (!missing) return createImageBitmap(await getBlob(`/api/clips/${key}/stills/${position}`));
  return createImageBitmap(new ImageData(new Uint8ClampedArray(new Uint32Array(width * height).fill(0xff808080).buffer), width));
}
