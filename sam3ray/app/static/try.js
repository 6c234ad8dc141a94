// Try: prompts on a clip, and what the model makes of them, frame by frame.

import { get, owner, post, reached, ticket } from "./api.js";
import { ClipView } from "./clip_view.js";
import { check, chip, complain, el, empty, fill, objectItem, phrasesIn, put, slide, toast, unsure, whenOpen } from "./dom.js";
import { above, merged, row, rowsByFrame } from "./masks.js";
import { newWork, nothingFound } from "./prompts.js";

export default class TryView extends ClipView {
  constructor(page) {
    const { socket, state } = page;
    super("try", page);
    Object.assign(this, { clips: state.clips, defaults: {}, other: null, arriving: [], turn: 0, work: null });
    this.works = new Map(); // clip's key -> what is asked of it and was found
    this.node.addEventListener("dragover", (event) => event.preventDefault());
    this.node.addEventListener("drop", (event) => { event.preventDefault(); this.take(event.dataTransfer.files); });
    for (const name of ["place", "found", "preview", "restarted", "ended", "refused"]) socket.on(name, (event) => this.hear(name, event));
    socket.on("model", ({ info }) => { this.defaults = info.thresholds ?? {}; this.showSettings(); });
    socket.addEventListener("open", () => { for (const work of this.works.values()) this.askAgain(work); });
    fill(this.format, state.formats.map((name) => el("option", {}, name)));
    this.setTool({ value: "point" });
    this.setSize();
    this.listClips();
  }

  enter() {
    const last = this.clips.find((each) => each.key === sessionStorage.clip) ?? this.clips[0];
    if (!this.wanted && last) this.show(last.key);
  }

  get isEmpty() { return !this.work; }
  get chosen() { return this.work.chosen; }
  keyOf(index) { return [this.work?.version, this.threshold("new_det_thresh"), this.work?.shown.has(index)]; }
  asked(index) { this.preview(index); }
  renumbered() { this.showRows(); }

  // Clips

  get opened() { return this.work; }

  listClips() {
    const { clips, arriving, work } = this;
    this.filter.hidden = clips.length < 12;
    fill(this.list, arriving, this.lines(clips.filter((each) => this.fits(each)), ({ key, name }) => this.clipItem({ value: key, title: name, isChosen: key === work?.key, key }, el("span", {}, name))));
    if (!clips.length && !arriving.length) fill(this.list, empty("No clips yet. Upload a video."));
  }

  browse() { this.file.click(); }
  takeChosen() { this.take(this.file.files); }

  take(files) { this.fetch("upload", [...files], ++this.turn); }

  async addAddress() {
    const address = this.address.value;
    if (await this.add(post("/api/clips", { address }), ++this.turn) && this.address.value === address) this.address.value = "";
  }

  // The first is opened, unless one has chosen or added another clip since then: at another `turn`.
  async add(coming, turn, whose = "") {
    try {
      const added = await coming;
      this.clips.push(...added);
      this.listClips();
      if (added.length && turn === this.turn) {
        this.turn++;
        this.show(added[0].key);
      }
      return true;
    } catch (error) {
      toast(whose + error.message, "error");
      return false;
    }
  }

  open({ value: key }) {
    this.turn++;
    this.show(key);
  }

  async load(key) {
    this.player.close();
    this.closeBeside();
    const { first } = this.state, clip = first?.key === key ? first : await get(`/api/clips/${key}`);
    if (this.wanted !== key) return; // another was opened meanwhile
    const isNew = !this.works.has(key);
    if (isNew) this.works.set(key, newWork({ key, way: "forward", first: 0, last: clip.times.length - 1, settings: {}, running: null, position: 0 }));
    const work = (this.work = Object.assign(this.works.get(key), { clip }));
    sessionStorage.clip = key;
    const kept = !isNew || this.recall(work);
    for (const each of this.works.values()) { // of the others, what was asked for stays: what was found is on the server
      if (each !== work && !each.running && !each.found && !each.awaited.size) Object.assign(each, nothingFound(), { clip: { name: each.clip.name } });
    }
    this.timeline.set(work.rows);
    this.listClips();
    const loaded = work.results.length ? null : this.loadResults(work, !kept);
    await this.player.load(clip, work.position);
    this.pictures();
    this.changed();
    this.complete(work, loaded, kept);
  }

  goBack() {
    this.player.clip ??= this.work?.clip;
    this.wanted = this.work?.key;
    this.rest();
  }

  // What is done by then counts: it does not wait for what was found earlier.
  async complete(work, loaded, kept) {
    await loaded;
    if (this.wanted !== work.key) return;
    this.rest();
    this.changed();
    if (!kept) return;
    const order = this.order(), differs = (name) => JSON.stringify(order[name]) !== JSON.stringify(work.asked?.[name]);
    const all = ["phrases", "thresholds"].some(differs);
    if (all || ["visual", "refinements"].some(differs)) this.preview(this.player.index, all); // asked for since the last run
  }

  // What is asked for outlives a reload of the page in the tab; the server keeps what was found.
  remember() {
    try { sessionStorage[`work ${this.work.key}`] = `[${asText(this.work)},${this.work.position}]`; } catch { /* full of masks: it is only lost by a reload */ }
  }

  recall(work) {
    const [{ name, own, ...kept } = {}, position] = JSON.parse(sessionStorage[`work ${work.key}`] ?? "[]");
    if (name !== work.clip.name) return false; // of another server
    Object.assign(work, kept, { own: new Map(own), position });
    return true;
  }

  // What the server has of earlier runs; prompts of the latest, too, where the tab has kept none.
  async loadResults(work, withPrompts = false) {
    if (work.found) { work.again = true; return; } // it is being done
    work.found = [];
    try {
      await this.fetchResults(work, withPrompts);
    } catch (error) { complain(error); }
    work.found = null;
    if (work.again) {
      work.again = false;
      await this.loadResults(work);
    }
  }

  async fetchResults(work, withPrompts) {
    const { ticket, key } = work, asked = asText(work), { results } = await get(`/api/clips/${key}?owner=${owner()}`), latest = results.at(-1);
    if (!latest) return;
    const { frames, asked: ran, how, says, id } = await get(`/api/results/${latest.id}`);
    if (work.ticket !== ticket) return; // a run was begun meanwhile: what was there before must not replace it
    const names = ran.visual.map((each) => [each.object_id, each.label]), base = baseOf(ran);
    if (base > work.base) this.prompts.rebase(work, base);
    if (work.result && work.result !== id) work.shown = new Map();
    Object.assign(work, { rows: rowsByFrame([...frames, ...work.found], new Map(), above(base, work.base - base)), results, result: id, asked: ran, ran: ran.thresholds });
    if (withPrompts && asText(work) === asked) { // else something is asked for already
      const { phrases, exemplars, way, first, last, thresholds } = ran;
      Object.assign(work, { phrases, exemplars, way, first, last, settings: thresholds, own: new Map(names) });
      work.items = [...ran.visual, ...ran.refinements].map(({ label, ...item }) => item);
    }
    const goesOn = how === "queued" || how === "running", isUnderWay = goesOn && work.ended !== id;
    if (isUnderWay || !goesOn) work.says = says; // else its end was heard meanwhile
    if (!isUnderWay) Object.assign(work, { running: work.running?.id ? null : work.running, ended: id });
    else if (work.running?.id !== id) work.running = { id };
    this.prompts.rebase(work, Math.max(work.base, ...work.own.keys()));
    work.version++;
    if (work !== this.work) return;
    this.showRows();
    this.changed();
  }

  // What is asked for

  // Of a suggestion, or what is typed.
  async addPhrase({ value: text = this.phrase.value } = {}) {
    if (!this.wanted) return; // no clip: what was typed stays
    if (text === this.phrase.value) this.phrase.value = "";
    if (this.opening) await whenOpen(this);
    const { phrases } = this.work, all = [...phrases, ...phrasesIn(text)], lower = all.map((each) => each.toLowerCase());
    const known = all.filter((_, n) => lower.indexOf(lower[n]) === n);
    if (known.length === phrases.length) return;
    this.work.phrases = known;
    this.changed();
    this.preview(this.player.index, true);
  }

  removePhrase({ value }) {
    this.work.phrases = this.work.phrases.filter((each) => each !== value);
    this.changed();
    this.preview(this.player.index, true);
  }

  removeExemplar({ value }) {
    this.work.exemplars = this.work.exemplars.filter((each) => each.frame !== +value);
    this.changed();
    this.preview(+value, true);
  }

  setTool({ value }) {
    this.prompts.take(value === this.prompts.tool ? "point" : value).catch(complain);
    check(this.tools, this.prompts.tool);
    this.hint.textContent = this.tools.querySelector("[aria-checked=true]").dataset.hint;
    this.brushing.hidden = this.brushing.disabled = this.prompts.tool !== "brush";
    this.player.redraw();
  }

  setSize() {
    this.prompts.size = +this.size.value;
    this.sizeShown.textContent = this.size.value;
    this.player.redraw();
  }

  resize({ value }) {
    const to = this.prompts.size * value;
    this.size.value = value > 1 ? Math.ceil(to) : Math.floor(to);
    this.setSize();
  }

  toggleExclude() {
    this.prompts.exclude = !this.prompts.exclude;
    this.exclude.ariaChecked = String(this.prompts.exclude);
  }

  finish() {
    if (this.prompts.exclude) this.toggleExclude();
    this.choose({ value: null });
  }

  clear() { this.prompts.clear(); }
  setWay({ value }) { this.work.way = value; this.changed(); }

  // Of the range: where the frame shown is, or the number in the field.
  setEnd(control) {
    const { work, player } = this, end = control === this.first ? "first" : control === this.last ? "last" : control.value;
    if (control.value) work[end] = control === this[end] ? player.nearest(+control.value) : player.position;
    if (work.first > work.last) work[end === "first" ? "last" : "first"] = work[end];
    this.changed();
  }

  wholeClip() {
    Object.assign(this.work, { first: 0, last: this.player.count - 1 });
    this.changed();
  }

  changed() {
    const { work, player } = this;
    if (!work || !player.clip) return;
    const suggested = work.clip.prompts.filter((each) => !work.phrases.includes(each));
    fill(this.chips,
      work.phrases.map((text) => chip(text, "removePhrase", text, `Remove ${text}`)),
      work.exemplars.map(({ label, frame }) => chip(`${label}, frame ${frame}`, "removeExemplar", frame, `Remove the boxes of frame ${frame}`)),
      suggested.map((text) => el("button", { class: "chip ghost", title: "Add this phrase", do: "addPhrase", value: text, "data-of": text }, `+ ${text}`)));
    check(this.ways, work.way);
    for (const end of ["first", "last"]) {
      put(this[end], player.indexAt(work[end]));
      this[end].max = player.indexAt(player.count - 1);
    }
    this.listObjects();
    this.showRunning();
    this.showSettings();
    player.redraw();
    this.remember();
  }

  listObjects() {
    const { work, prompts } = this, found = this.timeline.tracks.filter(({ id }) => !work.own.has(id));
    const line = (id, name, about, ...more) => objectItem(id, work.chosen === id, name, el("small", {}, about), ...more);
    fill(this.objects,
      [...work.own].map(([id, label]) => line(id, el("input", { type: "text", defaultValue: label, maxLength: 200, name: id, ariaLabel: `Name of object ${id}`, do: "nameObject" }), prompts.about(id),
        el("button", { class: "quiet", ariaLabel: `Remove object ${id}`, do: "removeObject", value: id }, "×"))),
      found.map(({ id, prompt, at, score }) => line(id, el("span", {}, prompt), prompts.about(id) || `${at.size} fr.${unsure(score, " · ")}`)),
      !work.own.size && !found.length && empty("No objects yet."));
  }

  nameObject({ name, value }) {
    this.work.own.set(+name, value.trim() || `object ${name}`);
    this.changed();
  }

  removeObject({ value }) {
    const id = +value || this.work.chosen;
    if (id) this.prompts.remove(id);
  }

  choose({ value }) {
    this.work.chosen = value;
    this.chooseTrack(value);
    this.changed();
  }

  alone() {
    this.player.only = this.player.only === null ? this.work.chosen : null;
    this.player.redraw();
  }

  // Thresholds

  threshold(name, of = this.work?.settings) { return of?.[name] ?? this.state.thresholds[name] ?? this.defaults[name]; }

  setThreshold({ name, value }) {
    this.work.settings[name] = +value;
    this.showSettings();
    this.player.redraw();
    this.remember();
    clearTimeout(this.trying);
    if (this.work.phrases.length) this.trying = setTimeout(() => this.preview(this.player.index, true), 250); // on this frame, at once
  }

  showSettings() {
    if (!this.work) return;
    slide(this.settings, (name) => this.threshold(name));
    this.showEffect();
  }

  // What another threshold would change, as far as what was found can tell.
  showEffect() {
    const { work } = this, { tracks } = this.timeline, wanted = this.threshold("new_det_thresh");
    const ran = (name) => this.threshold(name, work.ran ?? {});
    const below = tracks.filter((track) => track.score < wanted).length;
    this.effect.textContent = !tracks.length ? ""
      : below ? `${below} of ${tracks.length} objects score below ${wanted} and are shown faintly.`
      : wanted < ran("new_det_thresh") ? `Objects between ${wanted} and ${ran("new_det_thresh")} were not kept. Run again to see them.`
      : Object.entries(work.settings).some(([name, value]) => value !== ran(name)) ? "Only this frame shows the new settings. Run again for the others." : "";
  }

  // Running

  order(more) {
    const { key, phrases, exemplars, way, first, last, settings } = this.work;
    const start = way === "both" ? Math.max(first, Math.min(last, this.player.position)) : first;
    return { do: "run", key, phrases, exemplars, ...this.prompts.payload(), way, first, last, start, thresholds: { ...settings }, ...more };
  }

  run() {
    const { work } = this;
    if (work.running) return;
    this.addPhrase();
    if (!work.phrases.length && !work.own.size && !work.exemplars.length) {
      toast("First type a phrase, or click on an object.");
      this.phrase.focus();
      return;
    }
    this.prompts.rebase(work);
    const order = this.order({ ticket: ticket("run") });
    this.socket.send(order);
    Object.assign(work, { ticket: order.ticket, asked: order, running: { order }, ran: order.thresholds, says: "Working." });
    this.changed();
  }

  // The connection is there, or there again: what has not been answered may not have arrived.
  askAgain(work) {
    const { running, awaited, results } = work;
    for (const { order } of [...awaited.values(), !running?.id && running || {}]) if (order) this.socket.send(order);
    if (running?.stop) this.socket.send(running.stop);
    if (results.length || running) this.loadResults(work);
  }

  // By its ticket, where the server has not said yet what it calls it.
  cancel() {
    const { running, ticket } = this.work;
    if (running) this.socket.send((running.stop = { do: "cancel", id: running.id, ticket }));
  }

  // The model's answer for one frame. all: of phrases and examples, too, instead of all that is shown.
  preview(index, all = false) {
    const { work, player } = this, { key, settings } = work, start = player.positionOf(index);
    const visual = this.prompts.payloadAt(index), exemplars = work.exemplars.filter((each) => each.frame === index);
    all ||= exemplars.length > 0;
    const phrases = all ? work.phrases : [];
    if (visual.length || phrases.length || exemplars.length) {
      const order = this.previewOf(key, start, { phrases, visual, exemplars, thresholds: settings, ticket: ticket("preview") });
      if (all) work.awaited.delete(`${index} false`); // this answers that, too
      work.awaited.set(`${index} ${all}`, { order, all, highest: Math.max(0, ...visual.map((each) => each.object_id)) });
      this.socket.send(order);
      return;
    }
    for (const kind of [true, false]) work.awaited.delete(`${index} ${kind}`);
    work.shown.delete(index);
    work.version++;
    player.redraw();
  }

  hear(name, event) {
    const work = this.works.get(event.key), isOurs = ({ order }) => order.ticket === event.ticket;
    if (name === "refused") {
      for (const each of this.works.values()) {
        const asked = this.answered(each, isOurs), isRun = each.running?.order && isOurs(each.running);
        if (isRun) Object.assign(each, { running: null, says: "" });
        if (asked || isRun) complain(event);
      }
      this.changed();
    } else if (name === "preview" || event.preview) {
      const asked = work && this.answered(work, isOurs);
      if (asked && name === "preview") this.previewed(work, event, asked);
      else if (asked && event.how === "failed") complain(event);
    } else if (work && !(event.ticket && work.running?.order && !isOurs(work.running))) this.follow(work, name, event);
  }

  // The preview that is answered; undefined where something else is asked since, or somebody else has asked.
  answered({ awaited }, isOurs) {
    const [key, asked] = [...awaited].find(([, each]) => isOurs(each)) ?? [];
    awaited.delete(key);
    return asked;
  }

  previewed(work, { frames: [frame] }, asked) {
    if (!frame) return;
    // Ids of phrases are above all of one's own, not only of this frame's.
    const rows = frame.o.map(row).map(above(asked.highest, work.base - asked.highest));
    const is = ({ id }) => id > work.base || work.own.has(id); // not removed meanwhile
    work.shown.set(frame.i, merged(asked.all ? [] : this.rowsOf(work, frame.i), rows.filter(is)));
    work.version++;
    if (work === this.work) this.player.redraw();
  }

  follow(work, name, { id, ticket, frames, part, kept, missed, how, message, says }) {
    if (id !== work.result && ticket !== work.ticket) { this.loadResults(work); return; } // begun in another tab
    if (name === "place") {
      if (work.result !== id) {
        const asked = work.running?.order ?? work.asked;
        Object.assign(work, { result: id, asked, rows: new Map(), shown: new Map() });
        work.results.push({ id, asked });
      }
      work.running = { ...work.running, id };
    } else if (name === "restarted") {
      work.rows = new Map();
      toast(message);
    } else if (name === "found") {
      if (kept || missed) this.loadResults(work); // frames of the run before, which stay, or that were left out
      work.found?.push(...frames);
      const base = baseOf(work.asked);
      rowsByFrame(frames, work.rows, above(base, work.base - base));
      for (const { i } of frames) work.shown.delete(i);
      if (work.running) work.running.part = part;
    } else {
      Object.assign(work, { running: null, ended: id });
      if (how === "failed") toast(message, "error", 15);
    }
    work.says = says;
    work.version++;
    if (work !== this.work) return;
    this.showRunning();
    this.soon ??= requestAnimationFrame(() => { this.soon = null; this.showRows(); });
  }

  showRows() {
    this.timeline.set(this.work.rows);
    this.listObjects();
    this.showEffect();
    this.player.redraw();
  }

  showRunning() {
    const { work, bar } = this, { running } = work;
    this.runButton.hidden = Boolean(running);
    this.stopButton.hidden = bar.hidden = !running;
    this.home.hidden = !work.rows.size;
    if (running?.part) bar.value = running.part;
    else bar.removeAttribute("value");
    this.status.textContent = work.says ?? "";
    const earlier = work.results.filter((each) => each.id !== work.result);
    this.compare.hidden = !earlier.length;
    fill(this.compare, this.compare[0], earlier.map(({ id, asked }, n) => el("option", { value: id, "data-of": id }, `${n + 1}: ${about(asked)}`)));
  }

  // Two results side by side, on the same frame

  async showBeside() {
    const id = this.compare.value;
    this.closeBeside();
    if (!id) return;
    await this.fetch("compare", id);
    if (!this.other) return;
    this.compare.value = id;
    this.player.show(this.player.position);
  }

  closeBeside() {
    this.other?.close();
    this.other = null;
  }

  frameShown(bitmap) {
    this.work.position = this.player.position;
    if (!this.player.playing) this.remember();
    this.glance(this.work.key);
    this.other?.frameShown(bitmap);
  }

  // What is shown of a frame: what a preview said of it last, else the run's rows.
  rowsOf(work, index) { return work.shown.get(index) ?? work.rows.get(index) ?? []; }

  rowsAt(index) {
    if (!this.work) return [];
    const least = this.threshold("new_det_thresh") ?? 0;
    return this.rowsOf(this.work, index).map((each) => (each.score < least ? { ...each, faint: true } : each));
  }

  // Downloads

  download({ value }) { this.fetch("download", value || this.format.value); }
  saveJob() { this.fetch("job"); }

  // What few people need is loaded when they do.
  async fetch(name, ...about) {
    try {
      await (await reached(import(`./${name}.js`)))[name](this, ...about);
    } catch (error) { complain(error); }
  }
}

// What phrases find in a run has ids above this.
const baseOf = ({ visual }) => Math.max(0, ...visual.map((each) => each.object_id));

// What is asked for of a clip, as it is kept.
function asText({ clip, phrases, own, items, exemplars, chosen, way, first, last, settings }) {
  return JSON.stringify({ name: clip.name, phrases, own: [...own], items, exemplars, chosen, way, first, last, settings });
}

// What a run was asked for, in a line.
export function about({ phrases, thresholds }) {
  return [phrases.join(", ") || "clicks", ...Object.entries(thresholds ?? {}).map(([name, value]) => `${name} ${value}`)].join(" · ");
}
