// Review: a run's clips one after the other, corrections as entries of its log, drafts where somebody was faster.

import { get, post, ticket } from "./api.js";
import { ClipView } from "./clip_view.js";
import { check, complain, discard, dot, el, empty, fill, objectItem, put, toast } from "./dom.js";
import { merged, row, rowsByFrame } from "./masks.js";
import { newWork } from "./prompts.js";

const LAST = 2 ** 31 - 1; // of a range without an end
const isDone = ({ status }) => status === "done";
const SORTS = {
  doubtful: (a, b) => (b.doubt?.suspicion ?? -1) - (a.doubt?.suspicion ?? -1),
  manifest: () => 0,
  objects: (a, b) => b.objects - a.objects,
};

export default class ReviewView extends ClipView {
  constructor(page) {
    const { socket, state } = page;
    super("review", page);
    Object.assign(this, { run: 0, clips: [], clip: null, rows: new Map(), chosen: null, version: 0, log: [], turn: Promise.resolve() });
    this.fix = null; // a mask that is being drawn anew, as the work of `Prompts`
    this.player.stage.over.addEventListener("click", (event) => this.fix || this.pick(event));
    socket.on("revised", (event) => this.revised(event));
    socket.on("preview", (event) => this.answered(event));
    for (const name of ["refused", "ended"]) socket.on(name, (event) => event.how !== "done" && this.isOfFix(event) && complain(event));
    socket.addEventListener("open", () => {
      for (const order of this.fix?.awaited.values() ?? []) socket.send(order);
      this.refresh(true);
    });
    fill(this.runs, state.runs.map(({ number, name }) => el("option", { value: number }, name))).hidden = state.runs.length < 2;
    this.author.value = localStorage.author ?? "";
    this.setScope({ value: "all" });
  }

  async enter() {
    this.looking = setInterval(() => this.refresh(), 10000);
    if (!this.clips.length) await this.openRun(this.run);
  }

  leave() {
    super.leave();
    clearInterval(this.looking);
  }

  keepAuthor() { localStorage.author = this.author.value.trim(); }
  path(more, { clip, run = this.run } = this.clip) { return `/api/runs/${run}/clips/${encodeURIComponent(clip)}${more}`; }

  get isEmpty() { return !this.clip; }
  get opened() { return this.clip; }
  get work() { return this.fix; }
  keyOf() { return [this.version, this.fix?.version]; }
  changed() { this.player.redraw(); }
  frameShown() {
    this.showHere();
    if (this.fix) this.glance(this.clip.key);
  }

  // Clips

  chooseRun() { this.openRun(Number(this.runs.value)); }

  async openRun(number) {
    Object.assign(this, { run: number, clip: null, wanted: null, rows: new Map(), clips: [] });
    this.player.close();
    this.rest();
    this.endFix();
    this.timeline.set(this.rows);
    this.choose({ value: null });
    this.listClips();
    try {
      const { clips, grows } = await get(`/api/runs/${number}`);
      if (number !== this.run) return; // another was chosen meanwhile
      Object.assign(this, { clips, grows });
      for (const each of clips) each.run = number; // a correction may be on its way when another run is chosen
      this.rank().catch(() => {});
      this.listClips();
      await this.openFirst();
    } catch (error) { complain(error); }
  }

  async openFirst() {
    const wanted = location.hash.split("/")[1], done = this.shownClips().filter(isDone);
    const first = this.clips.find((each) => encodeURIComponent(each.clip) === wanted && isDone(each)) ?? done[0];
    if (first) this.open({ value: first.clip });
  }

  // A run under way, or a recording: what is done since is there, too. all: what others have corrected, as well.
  async refresh(all) {
    const { run } = this;
    if (!all && (document.hidden || !(this.grows || this.clips.some((each) => each.status === "left")))) return;
    try {
      const { clips } = await get(`/api/runs/${run}`);
      if (run !== this.run) return;
      const known = new Map(this.clips.map((each) => [each.clip, each]));
      const done = () => this.clips.filter(isDone).length, before = done();
      this.clips = clips.map((each) => Object.assign(known.get(each.clip) ?? {}, each));
      this.listClips();
      if (done() > before) await this.rank();
      if (!this.clip) this.openFirst();
      else if (all) await this.reload();
    } catch { /* the next time */ }
  }

  async rank() {
    const { run } = this, doubts = await get(`/api/runs/${run}/doubts`);
    if (run !== this.run) return;
    for (const each of this.clips) each.doubt = doubts[each.clip];
    this.listClips();
    this.showDoubt();
  }

  shownClips() {
    const kind = this.kind.value;
    const is = (each) => ({ all: true, "to do": isDone(each) && !each.accepted, doubtful: each.doubt?.suspicion >= 0.5, accepted: each.accepted, corrected: each.corrections > 0 })[kind] ?? each.status === kind;
    return this.clips.filter((each) => is(each) && this.fits(each)).sort(SORTS[this.sort.value]);
  }

  listClips() {
    const shown = this.shownClips();
    this.count.textContent = `${shown.length} of ${this.clips.length} · ${this.clips.filter((each) => each.accepted).length} accepted`;
    fill(this.list, this.lines(shown, (each) => {
      const { clip, key, status, doubt } = each, done = isDone(each);
      return this.clipItem({ value: clip, title: each.message || doubt?.why || clip, isChosen: clip === this.clip?.clip, key: done && key },
        el("span", {}, clip, el("small", {}, done ? [`${each.objects} obj.`, `${each.frames} fr.`, doubt?.suspicion.toFixed(2)].filter(Boolean).join(" · ") : each.reason || status)),
        each.accepted ? el("em", { class: "ok", title: "accepted" }, "✓") : each.corrections > 0 && el("em", { title: "corrections" }, `✎${each.corrections}`));
    }));
  }

  open({ value: clipId }) {
    const entry = this.clips.find((each) => each.clip === clipId);
    if (!entry) return;
    if (isDone(entry)) this.show(clipId);
    else toast(`${clipId}: ${entry.message || entry.status}`, "info", 10);
  }

  async load(clipId) {
    const { run } = this, entry = this.clips.find((each) => each.clip === clipId);
    this.endFix();
    const [clip, found] = await Promise.all(["/picture", ""].map((each) => get(this.path(each, entry))));
    if (this.wanted !== clipId || run !== this.run) return; // another was opened meanwhile, or that of another run
    this.player.close();
    Object.assign(this, { clip: entry, chosen: null });
    discard(this.label);
    this.take(found);
    history.replaceState(null, "", `#review/${encodeURIComponent(clipId)}`);
    this.first.value = 0;
    this.last.value = clip.indices?.at(-1) ?? clip.times.length - 1;
    this.note.textContent = clip.missing ? `No video: ${clip.missing}` : clip.other_size;
    this.canFix = !clip.missing && !clip.other_size;
    await this.player.load(clip);
    this.pictures();
    if (this.chosen === null) this.choose({ value: this.timeline.tracks[0]?.id ?? null });
    this.showDrafts();
    this.showDoubt();
    this.rest();
  }

  goBack() {
    this.wanted = this.clip?.clip;
    this.rest();
  }

  async reload() {
    const entry = this.clip;
    if (!entry) return;
    const found = await get(this.path(""));
    if (entry === this.clip && found.revision >= this.revision) this.take(found);
  }

  // The rows and the log of the clip.
  take({ revision, frames, log, accepted, corrections }) {
    Object.assign(this, { revision, log, rows: rowsByFrame(frames) });
    Object.assign(this.clip, { accepted, corrections });
    this.version++;
    this.timeline.set(this.rows);
    fill(this.history, log.toReversed().map(({ number, time, author, words, undone }) => el("li", { class: undone ? "undone" : "", title: new Date(time * 1000).toLocaleString(), "data-of": number },
      el("b", {}, String(number)), el("span", {}, words), el("small", {}, author))), !log.length && empty("No corrections yet."));
    this.listClips();
    this.choose({ value: this.timeline.track(this.chosen) ? this.chosen : null });
  }

  // Why triage doubts this clip, and where to look.
  showDoubt() {
    const { why, frame } = this.clip?.doubt ?? {};
    fill(this.doubt, why && [`${why} `, el("button", { class: "quiet", title: "Go to the frame", do: "lookAt", value: frame }, `frame ${frame} →`)]);
  }

  lookAt({ value }) { this.player.showIndex(Number(value)); }

  next({ value }) {
    const shown = this.shownClips().filter(isDone), at = shown.indexOf(this.clip);
    const to = shown[at < 0 ? 0 : at + Number(value)];
    if (to) this.open({ value: to.clip });
    else toast(value > 0 ? "That was the last clip." : "That is the first clip.");
  }

  // Objects

  rowsAt(index) { return merged(this.rows.get(index) ?? [], this.fix?.shown.get(index) ?? []); }

  // The smallest object below the pointer.
  pick(event) {
    const [x, y] = this.player.stage.at(event) ?? [-1, -1];
    const inside = this.rowsAt(this.player.index).filter(({ box }) => x >= box[0] && x < box[2] && y >= box[1] && y < box[3]);
    if (inside.length) this.choose({ value: inside.sort((a, b) => a.area - b.area)[0].id });
  }

  choose({ value: id }) {
    if (id !== this.chosen) discard(this.label);
    this.chosen = id;
    this.chooseTrack(id);
    const track = this.timeline.track(id);
    fill(this.who, track ? [dot(id), `Object ${id}`] : "No object selected");
    put(this.label, track?.prompt ?? "");
    for (const each of this.editing.querySelectorAll("button, input")) each.disabled = !track;
    this.showHere();
    this.player.redraw();
  }

  alone() {
    this.player.only = this.aloneBox.checked ? this.chosen : null;
    this.player.redraw();
  }

  setOpacity({ value }) {
    this.player.opacity = Number(value);
    this.player.redraw();
  }

  showHere() {
    const rows = this.player.clip ? this.rowsAt(this.player.index) : [];
    fill(this.objects, rows.map(({ id, prompt, score, track }) => objectItem(id, id === this.chosen, el("span", {}, prompt), el("small", { title: "detection and track score" }, `${score.toFixed(2)} · ${track.toFixed(2)}`))),
      !rows.length && empty("No objects."));
  }

  // Corrections

  setScope({ value }) {
    this.scope = value;
    check(this.scopes, value);
    this.rangeRow.hidden = value !== "range";
  }

  setEnd({ value }) {
    this[value].value = this.here;
    if (Number(this.first.value) > Number(this.last.value)) this.first.value = this.last.value = this.here;
    this.setScope({ value: "range" });
  }

  // The frame that one has gone to, even if its picture is still to come.
  get here() { return this.player.indexAt(this.player.wanted); }

  // One operation on the chosen object, on the frames of the scope.
  correct(op, more = {}) {
    const { here, scope } = this, range = [this.first, this.last].map((each) => each.valueAsNumber).sort((a, b) => a - b);
    if (scope === "range" && range.some(Number.isNaN)) { toast("First type the frames of the range."); this.first.focus(); return false; }
    const frames = { on: [here, LAST], frame: [here, here], range }[scope];
    return this.edit([{ op, object: this.chosen, ...(frames && { frames }), ...more }]);
  }

  rename() {
    const label = this.label.value.trim();
    if (label) this.correct("rename", { label });
  }

  async withOther({ value: op }) {
    const other = Number(this.other.value);
    if (!other) { toast("First type the other object's id."); this.other.focus(); return; }
    const { clip, scope } = this, done = await this.correct(op, { [op === "set_id" ? "to" : "other"]: other });
    if (done && op === "set_id" && scope === "all" && clip === this.clip) this.choose({ value: other });
  }

  split() {
    const to = Math.max(...this.timeline.tracks.map((each) => each.id)) + 1;
    this.edit([{ op: "split", object: this.chosen, frame: this.here, to }]);
  }

  remove() { this.correct("delete"); }

  async accept() {
    const { clip } = this, shown = this.shownClips().filter(isDone), at = shown.indexOf(clip); // a filter may leave it out then
    if (!await this.edit([{ op: "accept" }]) || clip !== this.clip) return;
    const to = [...shown.slice(at + 1), ...shown.slice(0, at)].find((each) => !each.accepted);
    if (to) this.open({ value: to.clip });
    else toast("All clips of the list are accepted.");
  }

  // One after the other: what comes before the last is saved is a correction of what that leaves.
  edit(operations) {
    const { clip, revision } = this;
    return (this.turn = this.turn.then(() => this.commit(clip, operations, revision)));
  }

  async commit(clip, operations, seen) {
    const parent = clip === this.clip ? this.revision : Math.max(seen, clip.saved ?? 0), author = this.author.value;
    try {
      await this.save(clip, "/edit", { operations, parent, author });
      return true;
    } catch (error) {
      if (error.status === 400) complain(error); // it fits nowhere
      else {
        const { words } = error; // those of a conflict
        this.keepDrafts(clip, JSON.stringify(operations), { operations, words: words ?? operations.map(({ op }) => op.replace("_", " ")).join("; ") });
        toast(`Your change is kept as a draft. ${error.message}`, "error");
        if (words) await this.reload();
        this.showDrafts();
      }
      return false;
    }
  }

  async save(clip, where, asked) {
    this.saving = true; // our own correction is no news
    try {
      clip.saved = (await post(this.path(where, clip), asked)).revision;
      await this.reload();
    } finally { this.saving = false; }
    if (this.heard > this.revision) await this.reload();
  }

  back({ value }) {
    const { clip } = this;
    this.turn = this.turn.then(() => this.save(clip, `/${value}`, { author: this.author.value })).catch(complain);
  }

  // Somebody else has corrected this clip: shown at once, since an unseen change would make ours a conflict.
  async revised({ run, clip, revision, accepted, corrections }) {
    if (run !== this.run) return;
    const entry = this.clips.find((each) => each.clip === clip) ?? {};
    Object.assign(entry, { accepted, corrections });
    this.listClips();
    if (entry !== this.clip || revision <= this.revision) return;
    this.heard = revision;
    if (this.saving) return; // it reloads
    await this.reload();
    const latest = this.log.at(-1);
    if (latest && latest.author !== this.author.value) toast(`${latest.author} has corrected this clip (revision ${latest.number}).`);
  }

  // Drafts live in this browser until they are applied or discarded.

  draftsKey({ clip, run = this.run }) { return `draft ${this.state.runs[run].place} ${clip}`; }
  drafted(clip) { return JSON.parse(localStorage[this.draftsKey(clip)] ?? "[]"); }

  // All but one, and more.
  keepDrafts(clip, draft, ...more) {
    const others = this.drafted(clip).filter(({ operations }) => JSON.stringify(operations) !== draft);
    localStorage[this.draftsKey(clip)] = JSON.stringify([...others, ...more]);
  }

  showDrafts() {
    const held = this.drafted(this.clip);
    this.drafts.hidden = !held.length;
    fill(this.draftList, held.map(({ words, operations }) => {
      const value = JSON.stringify(operations); // what it is known by, whatever becomes of the others
      return el("div", { class: "row", "data-of": value }, el("span", { class: "say" }, words),
        el("button", { do: "applyDraft", value }, "Apply"), el("button", { class: "quiet", do: "discardDraft", value }, "Discard"));
    }));
  }

  async applyDraft({ value }) {
    const { clip } = this;
    if (await this.edit(JSON.parse(value))) this.discardDraft({ value }, clip);
  }

  discardDraft({ value }, clip = this.clip) {
    this.keepDrafts(clip, value);
    this.showDrafts();
  }

  // A new mask by clicks

  startFix() {
    if (!this.canFix) { toast(this.note.textContent); return; }
    this.player.pause();
    const { chosen, player } = this;
    this.fix = newWork({ clip: player.clip, own: new Map([[chosen, this.timeline.track(chosen).prompt]]), base: chosen, chosen });
    this.showFix();
    this.glance(this.clip.key);
  }

  endFix() {
    this.fix = null;
    this.showFix();
  }

  showFix() {
    this.fixing.hidden = !this.fix;
    this.editing.hidden = Boolean(this.fix);
    this.useButton.disabled = this.fix?.awaited.size || !this.masks().length;
    this.player.redraw();
  }

  asked(index) {
    const { player, fix } = this, visual = this.prompts.payloadAt(index);
    fix.shown.delete(index);
    fix.awaited.delete(index); // an answer to an earlier click is too late
    if (visual.length) {
      const order = this.previewOf(this.clip.key, player.positionOf(index), { visual, ticket: ticket("fix") });
      fix.awaited.set(index, order);
      this.socket.send(order);
    }
    this.showFix();
  }

  // Whether it answers a click, which then waits no longer.
  isOfFix(event) {
    const { awaited } = this.fix ?? {}, [index] = [...awaited ?? []].find(([, order]) => order.ticket === event.ticket) ?? [];
    if (index === undefined) return false;
    awaited.delete(index);
    this.showFix();
    return true;
  }

  answered(event) {
    const [frame] = event.frames;
    if (!this.isOfFix(event) || !frame) return;
    this.fix.shown.set(frame.i, frame.o.map(row));
    this.fix.version++;
    this.showFix();
  }

  // The new masks, by frame.
  masks() {
    return [...this.fix?.shown ?? []].flatMap(([index, rows]) => rows.filter((each) => each.id === this.fix.chosen).map((each) => [index, each.rle]));
  }

  async useFix() {
    const { fix } = this, { height, width } = fix.clip;
    const operations = this.masks().map(([index, counts]) => ({ op: "replace_mask", object: fix.chosen, frames: [index, index], label: fix.own.get(fix.chosen), mask: { size: [height, width], counts } }));
    if (await this.edit(operations) && fix === this.fix) this.endFix();
  }
}
