// What Try and Review share: a list of clips, the one that is open with its objects, and the object that is chosen.

import { attach, complain, el, empty, fill } from "./dom.js";
import { Player } from "./player.js";
import { Prompts } from "./prompts.js";
import { Timeline } from "./timeline.js";

const MOST = 400; // clips in the list

// A view has: opened, the clip that is open; rowsAt(index), keyOf(index) that names all that they depend on, work that prompts are for, and chosen;
//   load(key), choose({ value }), changed() and asked(index), for the model's answer.
export class ClipView {
  constructor(name, { socket, state }) {
    Object.assign(this, { socket, state, wanted: null, opening: null });
    this.node = attach(this, name);
    this.player = new Player(this);
    this.prompts = new Prompts(this.player, this);
    this.timeline = new Timeline(this.player, (value) => this.choose({ value }));
    this.screen.replaceWith(this.player.node);
    this.tracks.replaceWith(this.timeline.node);
    this.player.addEventListener("frame", ({ detail }) => this.frameShown(detail));
  }

  leave() { this.player.pause(); }

  // Opens a clip. What one does before it is there waits: see dom.js.
  show(key) {
    if (this.wanted === key) return; // it is there, or comes
    this.wanted = key;
    this.node.classList.add("busy");
    const opening = (this.opening = this.load(key).catch((error) => {
      complain(error);
      if (this.wanted === key) this.goBack();
    }).finally(() => { if (opening === this.opening) this.opening = null; }));
  }

  rest() { this.node.classList.remove("busy"); }

  // The first clip's picture comes before those of the list.
  pictures() {
    this.pictured = true;
    this.listClips();
  }

  fits({ name, clip = name, prompts }) { return `${clip} ${prompts.join(" ")}`.toLowerCase().includes(this.filter.value.trim().toLowerCase()); }

  // Where the open clip is among them: all of them would take seconds to draw.
  lines(clips, line) {
    const at = clips.findIndex(({ key }) => key === this.opened?.key), from = at - at % MOST, end = from + MOST;
    const more = (count) => count > 0 && empty(`${count} more clips: filter the list.`);
    return [more(from), ...clips.slice(from, end).map(line), more(clips.length - end)];
  }

  // key: whose picture it has.
  clipItem({ value, title, isChosen, key }, ...more) {
    const src = this.pictured ? `/api/clips/${key}/thumb` : "";
    return el("li", { "data-of": value }, el("button", { class: isChosen ? "chosen" : "", title, do: "open", value },
      key ? el("img", { src, alt: "", loading: "lazy", width: 64, height: 40 }) : el("i", { class: "blank" }), ...more));
  }

  // What the server is asked for one frame.
  previewOf(key, start, more) { return { do: "run", preview: true, key, start, first: 0, last: this.player.count - 1, ...more }; }

  // The model's process decodes the frame that one rests on: a click on it is answered sooner.
  glance(key) {
    const { playing, position: start } = this.player;
    clearTimeout(this.resting);
    if (!playing) this.resting = setTimeout(() => this.socket.send({ do: "glance", key, start }), 200);
  }

  // Objects

  here({ value }) { this.prompts.here(value); }

  nextObject({ value }) {
    const ids = this.rowsAt(this.player.index).map((each) => each.id), at = ids.indexOf(this.chosen);
    if (ids.length) this.choose({ value: ids[(at < 0 ? 0 : at + Number(value) + ids.length) % ids.length] });
  }

  // Alone, if only one is shown.
  chooseTrack(id) {
    this.timeline.choose(id);
    if (this.player.only !== null) this.player.only = id;
  }
}
