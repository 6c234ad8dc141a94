// Try: prompts on a clip, and what the model makes of them, frame by frame.

import { get, post, upload } from "./api.js";
import { css } from "./colours.js";
import { duration, el, fill, save, toast } from "./dom.js";
import { keys, PLAYING } from "./keys.js";
import { row } from "./masks.js";
import { Player } from "./player.js";
import { Prompts } from "./prompts.js";
import { Timeline } from "./timeline.js";

const WAYS = { forward: ["→", "Forward", "from the range's first frame to its last"], backward: ["←", "Backward", "from its last frame to its first"], both: ["↔", "Both ways", "from the frame shown, to both ends"] };

export class TryView {
  constructor({ socket, state }) {
    this.socket = socket;
    this.state = state;
    this.clips = state.clips;
    this.works = new Map(); // clip's key -> what has been asked of it and found
    this.player = new Player({
      rowsAt: (index) => this.rowsAt(index),
      decorate: (context, scale, index) => this.prompts.draw(context, scale, index),
      keyOf: (index) => `${this.work?.version} ${this.work?.settings.new_det_thresh} ${this.work?.shown.has(index)}`,
    });
    this.prompts = new Prompts(this.player, () => this.work, () => this.changed(), (frame) => this.preview(frame));
    this.timeline = new Timeline(this.player);
    this.timeline.addEventListener("choose", (event) => this.choose(event.detail));
    this.player.addEventListener("problem", (event) => toast(event.detail, "error"));
    this.player.addEventListener("frame", () => this.frameShown());
    this.build();
    for (const name of ["place", "found", "preview", "restarted", "ended", "refused"]) socket.on(name, (event) => this.hear(name, event));
    socket.addEventListener("open", () => this.work && this.restore(this.work.key));
  }

  // The page

  build() {
    const file = el("input", { type: "file", accept: "video/*,.mkv,.avi,.mov,.ts,.webm", hidden: true, onchange: () => this.take(file.files) });
    this.list = el("ul", { class: "clips", "aria-label": "Clips" });
    const address = el("input", { type: "text", placeholder: "https:// or s3:// address", "aria-label": "Address of a video", onkeydown: (e) => e.key === "Enter" && this.addAddress(address) });
    this.side = el("aside", { class: "side" },
      el("h2", {}, "Clips"),
      el("button", { class: "drop", onclick: () => file.click(), ondragover: (e) => e.preventDefault(), ondrop: (e) => { e.preventDefault(); this.take(e.dataTransfer.files); } },
        el("b", {}, "Upload a video"), el("small", {}, "or drop it here")), file, address, this.list);
    this.phrase = el("input", { type: "text", placeholder: "red circle, star, …", "aria-label": "Phrase to look for", maxLength: 256, onkeydown: (e) => e.key === "Enter" && this.addPhrase() });
    this.chips = el("div", { class: "chips" });
    this.objects = el("ul", { class: "objects", "aria-label": "Objects" });
    this.ways = el("div", { class: "segments", role: "radiogroup", "aria-label": "Direction" }, Object.entries(WAYS).map(([way, [sign, name, title]]) =>
      el("button", { role: "radio", title, data: { way }, onclick: () => { this.work.way = way; this.changed(); } }, `${sign} ${name}`)));
    this.first = el("input", { type: "number", class: "number", min: 0, "aria-label": "First frame of the range", onchange: () => this.setRange("first", Number(this.first.value)) });
    this.last = el("input", { type: "number", class: "number", min: 0, "aria-label": "Last frame of the range", onchange: () => this.setRange("last", Number(this.last.value)) });
    this.runButton = el("button", { class: "primary big", onclick: () => this.run() }, "Run");
    this.cancelButton = el("button", { class: "big", hidden: true, onclick: () => this.cancel() }, "Stop, keep what is done");
    this.bar = el("progress", { max: 1, value: 0, hidden: true, "aria-label": "Progress" });
    this.status = el("p", { class: "status", role: "status" });
    this.settings = el("div", { class: "settings" });
    this.effect = el("p", { class: "status effect" });
    this.exportChoice = el("select", { "aria-label": "Format of the export" }, Object.keys(this.state.formats).map((name) => el("option", { value: name }, name)));
    this.exclude = el("button", { role: "switch", title: "A click says what does not belong to the object", onclick: () => this.prompts.setExclude(!this.prompts.exclude) }, "− Exclude");
    this.likeButton = el("button", { role: "switch", title: "A box you drag shows a kind of thing: everything like it is found (w)", onclick: () => this.setLike(!this.prompts.like) }, "Box: all like this");
    this.prompts.onExclude = (on) => this.exclude.setAttribute("aria-checked", on);
    this.take_home = el("section", { class: "home" }, el("h2", {}, "Take home"),
      el("div", { class: "row" }, el("button", { onclick: () => this.download("parquet") }, "Parquet"), el("button", { onclick: () => this.download("video") }, "Video")),
      el("div", { class: "row" }, this.exportChoice, el("button", { onclick: () => this.download(this.exportChoice.value) }, "Export")),
      el("div", { class: "row" }, el("button", { title: "Configuration and manifest of a batch over these clips, with these phrases and thresholds", onclick: () => this.saveJob() }, "Save as job")));
    this.compare = el("select", { "aria-label": "Compare with an earlier result", onchange: () => this.showBeside() });
    this.panel = el("aside", { class: "panel" },
      el("section", {}, el("h2", {}, "Find"), el("div", { class: "row" }, this.phrase, el("button", { title: "Add the phrase", "aria-label": "Add the phrase", onclick: () => this.addPhrase() }, "+")), this.chips, el("div", { class: "row" }, this.likeButton)),
      el("section", {}, el("h2", {}, "Objects", el("span", { class: "tools" }, this.exclude, el("button", { title: "Finish this object (f)", onclick: () => this.prompts.finish() }, "Finish"), el("button", { title: "Clear its prompts on this frame (b)", onclick: () => this.prompts.clear() }, "Clear"))),
        el("p", { class: "hint" }, "Click on an object; right-click on what is not part of it; drag a box."), this.objects),
      el("section", {}, el("h2", {}, "Run"), this.ways,
        el("div", { class: "row range" }, "frames", this.first, "to", this.last, el("button", { class: "quiet", title: "The whole clip", onclick: () => { Object.assign(this.work, { first: 0, last: this.player.count - 1 }); this.changed(); } }, "all")),
        el("div", { class: "row" }, this.runButton, this.cancelButton), this.bar, this.status),
      el("section", {}, el("details", {}, el("summary", {}, "Thresholds"), this.settings), this.effect, this.compare),
      this.take_home);
    this.beside = el("div", { class: "beside", hidden: true });
    this.centre = el("div", { class: "centre" }, el("div", { class: "screens" }, this.player.node, this.beside), this.timeline.node);
    this.node = el("div", { class: "try" }, this.side, this.centre, this.panel);
    this.node.addEventListener("dragover", (e) => e.preventDefault());
    this.node.addEventListener("drop", (e) => { e.preventDefault(); this.take(e.dataTransfer.files); });
    this.buildSettings();
    this.listClips();
  }

  enter() {
    keys([
      ...PLAYING(this.player),
      { keys: ["q"], says: "include what is under the pointer (or left click)", act: () => this.prompts.atPointer(true) },
      { keys: ["e"], says: "exclude what is under the pointer (or right click)", act: () => this.prompts.atPointer(false) },
      { keys: ["w"], says: "boxes show a kind of thing: find everything like it", act: () => this.setLike(!this.prompts.like) },
      { keys: ["f"], says: "finish the object: the next click begins another one", act: () => this.prompts.finish() },
      { keys: ["b"], says: "clear the object's prompts on this frame", act: () => this.prompts.clear() },
      { keys: ["/"], says: "type a phrase", act: () => this.phrase.focus() },
      { keys: ["r", "Enter"], says: "run", act: () => this.run() },
      { keys: ["Escape"], says: "stop, keep what is done", act: () => this.cancel() },
      { keys: ["["], says: "the range begins at this frame", act: () => this.setRange("first", this.player.index) },
      { keys: ["]"], says: "the range ends at this frame", act: () => this.setRange("last", this.player.index) },
      { keys: ["s"], says: "show the chosen object alone, or all", act: () => this.alone() },
      { keys: ["l"], says: "labels on or off", act: () => { this.player.labels = !this.player.labels; this.player.redraw(); } },
      { keys: ["?"], says: "this list", act: () => {} },
    ]);
    if (!this.work && this.clips.length) this.open(this.clips[0].key);
  }

  leave() { this.player.pause(); }

  listClips() {
    fill(this.list, this.clips.map((clip) => el("li", {}, el("button", { class: clip.key === this.work?.key ? "chosen" : "", title: clip.name, onclick: () => this.open(clip.key) },
      el("img", { src: `/api/clips/${clip.key}/stills/0`, alt: "", loading: "lazy", width: 64, height: 40 }), el("span", {}, clip.name)))));
    if (!this.clips.length) fill(this.list, el("li", { class: "empty" }, "No clips yet: upload a video."));
  }

  async take(files) {
    for (const file of files) {
      const bar = el("progress", { max: 1, value: 0 });
      const item = el("li", { class: "loading" }, file.name, bar);
      this.list.prepend(item);
      try {
        const clip = await upload(file, (part) => { bar.value = part; });
        this.clips.push(clip);
        this.listClips();
        await this.open(clip.key);
      } catch (error) {
        item.remove();
        toast(`${file.name}: ${error.message}`, "error", 12);
      }
    }
  }

  async addAddress(input) {
    try {
      const added = await post("/api/clips", { address: input.value });
      this.clips.push(...added);
      input.value = "";
      this.listClips();
      if (added.length) await this.open(added[0].key);
    } catch (error) { toast(error.message, "error", 12); }
  }

  async open(key) {
    if (this.opening === key || (key === this.work?.key && this.player.clip)) return; // it is there
    this.opening = key;
    const before = this.player.close();
    this.closeBeside();
    this.node.classList.add("busy");
    try {
      const clip = await get(`/api/clips/${key}`);
      if (this.opening !== key) return; // another was opened meanwhile
      if (!this.works.has(key)) {
        this.works.set(key, { key, clip, phrases: [], own: [], refinements: [], exemplars: [], chosen: null, rows: new Map(), shown: new Map(), way: "forward", first: 0, last: clip.times.length - 1, settings: {}, running: null, results: [], base: 0, version: 0 });
      }
      this.work = this.works.get(key);
      this.work.clip = clip;
      this.listClips();
      await this.player.load(clip);
      if (!this.work.results.length) await this.restore(key);
      this.changed();
    } catch (error) {
      this.player.clip ??= before;
      toast(error.message, "error", 12);
    }
    if (this.opening === key) this.opening = null;
    this.node.classList.remove("busy");
  }

  // After the page was loaded anew, or the connection was lost: what the server still has.
  async restore(key) {
    const work = this.works.get(key), { ticket } = work;
    const { results } = await get(`/api/clips/${key}`);
    const latest = results.at(-1);
    if (!latest) return;
    const { frames, asked, how, id } = await get(`/api/results/${latest.id}`);
    if (work.ticket !== ticket) return; // a run was begun meanwhile: what was there before must not replace it
    work.rows = new Map(frames.map((frame) => [frame.i, frame.o.map(row)]));
    work.results = results.map((each) => ({ id: each.id, asked: each.asked }));
    if (!work.phrases.length && !work.own.length) {
      work.phrases = asked.phrases ?? [];
      this.prompts.restore(work, asked.visual ?? [], asked.refinements ?? []);
      work.exemplars = asked.exemplars ?? [];
      Object.assign(work, { way: asked.way, first: asked.first, last: asked.last, settings: asked.thresholds ?? {} });
    }
    work.base = this.prompts.highest(work);
    work.result = id;
    work.running = how === "queued" || how === "running" ? { id } : null;
    work.version++;
    if (work === this.work) { this.changed(); this.showRows(); }
  }

  // What is asked for

  addPhrase(text = this.phrase.value) {
    const given = text.split(/[,;\n]/).map((each) => each.trim()).filter(Boolean);
    this.phrase.value = "";
    const fresh = given.filter((each) => !this.work.phrases.some((old) => old.toLowerCase() === each.toLowerCase()));
    if (!fresh.length) return;
    this.work.phrases.push(...fresh);
    this.changed();
    this.preview(this.player.index, true);
  }

  setLike(on) {
    this.prompts.like = on;
    this.likeButton.setAttribute("aria-checked", on);
  }

  setRange(end, index) {
    const at = this.player.nearest(Math.max(0, index)), { work } = this;
    const position = Math.max(0, Math.min(this.player.count - 1, at));
    work[end] = position;
    if (work.first > work.last) work[end === "first" ? "last" : "first"] = position;
    this.changed();
  }

  changed() {
    const { work } = this;
    if (!work) return;
    const suggested = work.clip.prompts.filter((each) => !work.phrases.includes(each));
    fill(this.chips,
      work.phrases.map((text) => el("span", { class: "chip" }, text, el("button", { class: "quiet", "aria-label": `Remove ${text}`, onclick: () => { work.phrases = work.phrases.filter((each) => each !== text); this.changed(); } }, "×"))),
      work.exemplars.map((each) => el("span", { class: "chip" }, `${each.label}, frame ${each.frame}`, el("button", { class: "quiet", "aria-label": `Remove the boxes of frame ${each.frame}`, onclick: () => { work.exemplars = work.exemplars.filter((one) => one !== each); this.changed(); this.preview(each.frame); } }, "×"))),
      suggested.map((text) => el("button", { class: "chip ghost", title: "Add this phrase", onclick: () => this.addPhrase(text) }, `+ ${text}`)));
    for (const button of this.ways.children) button.setAttribute("aria-checked", button.dataset.way === work.way);
    this.first.value = this.player.indexAt(work.first);
    this.last.value = this.player.indexAt(work.last);
    this.first.max = this.last.max = this.player.indexAt(this.player.count - 1);
    this.listObjects();
    this.showRunning();
    this.showSettings();
    this.player.redraw();
  }

  listObjects() {
    const { work } = this;
    const found = this.timeline.tracks.filter((track) => !work.own.some((each) => each.id === track.id));
    const line = (id, name, about, ...more) => el("li", { class: work.chosen === id ? "chosen" : "", onclick: () => this.choose(id) },
      el("i", { class: "dot", style: { background: css(id) } }), el("b", {}, String(id)), name, el("small", {}, about), ...more);
    fill(this.objects,
      work.own.map((each) => line(each.id,
        el("input", { type: "text", value: each.label, maxLength: 200, "aria-label": `Name of object ${each.id}`, onclick: (e) => e.stopPropagation(), onchange: (e) => { each.label = e.target.value.trim() || `object ${each.id}`; this.changed(); } }),
        this.prompts.about(each),
        el("button", { class: "quiet", "aria-label": `Remove object ${each.id}`, onclick: (e) => { e.stopPropagation(); this.prompts.remove(each.id); } }, "×"))),
      found.map((track) => line(track.id, el("span", {}, track.prompt), `${track.at.size} fr.${track.score < 0.995 ? ` · ${track.score.toFixed(2)}` : ""}`)));
    if (!work.own.length && !found.length) fill(this.objects, el("li", { class: "empty" }, "None yet."));
  }

  choose(id) {
    if (!this.work) return;
    this.work.chosen = id;
    this.timeline.choose(id);
    if (this.player.only !== null) this.player.only = id;
    this.changed();
  }

  alone() {
    this.player.only = this.player.only === null ? this.work.chosen : null;
    this.player.redraw();
  }

  // Thresholds

  buildSettings() {
    const slider = (name, title, max, step) => {
      const shown = el("output", {});
      const input = el("input", { type: "range", min: step < 1 ? 0 : 0, max, step, "aria-label": title, oninput: () => {
        this.work.settings[name] = Number(input.value);
        shown.textContent = input.value;
        this.showEffect();
        this.player.redraw();
      } });
      this.sliders[name] = { input, shown };
      return el("label", {}, title, input, shown);
    };
    this.sliders = {};
    fill(this.settings,
      slider("new_det_thresh", "New object from score", 1, 0.01),
      slider("score_threshold_detection", "Detection from score", 1, 0.01),
      slider("det_nms_thresh", "Duplicates above overlap", 1, 0.01),
      slider("hotstart_delay", "Frames before a new object is believed", 30, 1));
    this.socket.on("model", ({ info }) => { this.defaults = info.thresholds ?? {}; this.showSettings(); });
  }

  threshold(name) { return this.work?.settings[name] ?? this.state.thresholds[name] ?? this.defaults?.[name]; }

  showSettings() {
    if (!this.work) return;
    for (const [name, { input, shown }] of Object.entries(this.sliders)) {
      const value = this.threshold(name);
      if (value === undefined || value === null) continue;
      input.value = value;
      shown.textContent = value;
    }
    this.showEffect();
  }

  // What another threshold would change, as far as what was found can tell.
  showEffect() {
    const { work } = this, wanted = this.threshold("new_det_thresh"), ran = work.ran?.new_det_thresh ?? wanted;
    const tracks = this.timeline.tracks, below = tracks.filter((track) => track.score < wanted).length;
    const changed = Object.keys(work.settings).some((name) => work.settings[name] !== (work.ran?.[name] ?? work.settings[name]));
    this.effect.textContent = !tracks.length ? ""
      : below ? `${below} of ${tracks.length} objects fall below ${wanted}: shown faintly.`
      : wanted < ran ? `Objects between ${wanted} and ${ran} were not kept: run again to see them.`
      : changed ? "Run again to see what these settings change." : "";
  }

  // Running

  order(more) {
    const { work } = this;
    const { visual, refinements } = this.prompts.payload(work);
    return { do: "run", key: work.key, phrases: work.phrases, visual, refinements, exemplars: work.exemplars, way: work.way, first: work.first, last: work.last,
      start: work.way === "both" ? Math.max(work.first, Math.min(work.last, this.player.position)) : work.first, thresholds: work.settings, ...more };
  }

  run() {
    const { work } = this;
    if (!work || work.running) return;
    if (this.phrase.value.trim()) this.addPhrase();
    if (!work.phrases.length && !work.own.length && !work.exemplars.length) {
      toast("Type a phrase, or click on an object, first.");
      this.phrase.focus();
      return;
    }
    const order = this.order({ ticket: `run ${work.key} ${Date.now()}` });
    if (!this.socket.send(order)) { toast("The server cannot be reached.", "error"); return; }
    work.ticket = order.ticket;
    work.running = { ticket: order.ticket };
    work.base = this.prompts.highest(work);
    work.ran = Object.fromEntries(Object.keys(this.sliders).map((name) => [name, this.threshold(name)]));
    work.rows = new Map();
    work.shown = new Map();
    work.version++;
    this.status.textContent = "Sent.";
    this.showRows();
    this.changed();
  }

  cancel() { if (this.work?.running?.id) this.socket.send({ do: "cancel", id: this.work.running.id }); }

  preview(index, all = false) {
    const { work } = this, position = this.player.positionOf(index);
    if (!work || position < 0) return;
    const { visual, refinements } = this.prompts.payload(work, index, this.rowsAt(index));
    const exemplars = work.exemplars.filter((each) => each.frame === index);
    all ||= exemplars.length > 0; // what phrases and boxes find replaces what is shown
    const phrases = all ? work.phrases : [];
    if (!visual.length && !phrases.length && !exemplars.length) { work.shown.delete(index); work.version++; this.player.redraw(); return; }
    this.socket.send({ do: "run", preview: true, key: work.key, phrases, visual, refinements, exemplars, start: position, first: 0, last: this.player.count - 1, thresholds: work.settings, ticket: `preview ${work.key} ${all}` });
  }

  hear(name, event) {
    const work = this.works.get(event.key);
    if (name === "refused") {
      if (this.work?.running?.ticket === event.ticket && event.ticket) this.work.running = null;
      toast(event.message, "error", 12);
      this.changed();
      return;
    }
    if (!work) return;
    if (name === "preview") {
      const rows = event.frames[0]?.o.map(row) ?? [], index = event.frames[0]?.i;
      if (index === undefined) return;
      const before = event.ticket?.endsWith("true") ? [] : this.rowsOf(work, index).filter((each) => !rows.some((one) => one.id === each.id));
      work.shown.set(index, [...before, ...rows].sort((a, b) => a.id - b.id));
      work.version++;
      if (work === this.work) this.player.redraw();
      return;
    }
    if (event.preview) { if (event.how === "failed") toast(event.message, "error"); return; }
    if (event.ticket && work.running?.ticket && event.ticket !== work.running.ticket) return;
    if (name === "place") {
      work.running = { ...work.running, id: event.id, place: event.place };
      work.result = event.id;
      if (!work.results.some((each) => each.id === event.id)) work.results.push({ id: event.id, asked: this.order({}) });
    } else if (name === "restarted") {
      work.rows = new Map();
      toast(event.message);
    } else if (name === "found") {
      for (const frame of event.frames) {
        const fresh = frame.o.map(row), old = (work.rows.get(frame.i) ?? []).filter((each) => !fresh.some((one) => one.id === each.id));
        work.rows.set(frame.i, [...old, ...fresh].sort((a, b) => a.id - b.id));
        work.shown.delete(frame.i);
      }
      if (work.running) Object.assign(work.running, { done: event.done, total: event.total, seconds: event.seconds });
    } else if (name === "ended") {
      work.running = null;
      work.ended = { how: event.how, message: event.message };
      if (event.how === "failed") toast(event.message, "error", 15);
    }
    work.version++;
    if (work === this.work) {
      this.showRunning();
      this.soon ??= requestAnimationFrame(() => { this.soon = null; this.showRows(); });
    }
  }

  showRows() {
    this.timeline.set(this.work.rows);
    this.listObjects();
    this.showEffect();
    this.player.redraw();
  }

  showRunning() {
    const { work } = this, { running } = work;
    this.runButton.hidden = Boolean(running);
    this.cancelButton.hidden = this.bar.hidden = !running;
    this.take_home.hidden = !work.rows.size;
    if (running) {
      if (running.place) { this.status.textContent = `Waiting: place ${running.place} in the queue.`; this.bar.removeAttribute("value"); }
      else if (running.done) {
        const left = (running.seconds / running.done) * (running.total - running.done);
        this.bar.value = running.done / running.total;
        this.status.textContent = `${running.done} of ${running.total} steps · ${(running.done / Math.max(0.01, running.seconds)).toFixed(1)} a second · ${duration(left)} left`;
      } else this.status.textContent = "Working.";
    } else if (work.ended) {
      const frames = work.rows.size;
      this.status.textContent = { done: `Done: ${frames} frames.`, cancelled: `Stopped: ${frames} frames are kept.`, failed: `Failed: ${work.ended.message}` }[work.ended.how];
    } else this.status.textContent = "";
    const earlier = work.results.filter((each) => each.id !== work.result);
    this.compare.hidden = !earlier.length;
    if (earlier.length !== this.compare.length - 1) {
      fill(this.compare, el("option", { value: "" }, "Compare with an earlier result…"), earlier.map((each, n) => el("option", { value: each.id }, `${n + 1}: ${(each.asked.phrases ?? []).join(", ") || "clicks"}`)));
    }
  }

  // Two results side by side, on the same frame.

  async showBeside() {
    const id = this.compare.value;
    this.closeBeside();
    if (!id) return;
    const { frames } = await get(`/api/results/${id}`);
    const rows = new Map(frames.map((frame) => [frame.i, frame.o.map(row)]));
    this.other = new Player({ rowsAt: (index) => rows.get(index) ?? [], keyOf: () => id });
    fill(this.beside, this.other.stage);
    this.beside.hidden = false;
    await this.other.load(this.work.clip);
    this.other.show(this.player.position);
  }

  closeBeside() { this.other = null; this.beside.hidden = true; fill(this.beside); }

  frameShown() {
    this.other?.show(this.player.position);
    this.prompts.frameShown();
  }

  // What is shown of a frame: what a preview said of it last, else the run's rows.
  rowsOf(work, index) { return work.shown.get(index) ?? work.rows.get(index) ?? []; }

  rowsAt(index) {
    if (!this.work) return [];
    const least = this.threshold("new_det_thresh") ?? 0;
    return this.rowsOf(this.work, index).map((each) => (each.score < least ? { ...each, faint: true } : each));
  }

  // Taking home

  download(kind) {
    const least = this.threshold("new_det_thresh") ?? 0;
    el("a", { href: `/api/results/${this.work.result}/download/${kind}?min_score=${least > (this.work.ran?.new_det_thresh ?? 0) ? least : 0}`, download: "" }).click();
    toast(kind === "parquet" ? "The rows are on their way." : "It is being made: the download begins when it is done.");
  }

  async saveJob() {
    try {
      const { files } = await post("/api/job", { phrases: this.work.phrases, result: this.work.result, keys: this.clips.map((each) => each.key) });
      for (const [name, text] of Object.entries(files)) save(name, text);
      toast("job.yaml and clips.jsonl are saved. Put them into one folder, then: sam3ray run job.yaml", "info", 12);
    } catch (error) { toast(error.message, "error", 12); }
  }
}
