// Review: a run's clips one after the other, corrections as entries of its log, drafts where somebody was faster.

import { get, post } from "./api.js";
import { css } from "./colours.js";
import { el, fill, toast } from "./dom.js";
import { keys, PLAYING } from "./keys.js";
import { row } from "./masks.js";
import { Player } from "./player.js";
import { Prompts } from "./prompts.js";
import { Timeline } from "./timeline.js";

const SCOPES = { all: "Everywhere", on: "From here", frame: "Frame", range: "Range" };
const SORTS = {
  doubtful: ["Most doubtful first", (a, b) => (b.doubt?.suspicion ?? -1) - (a.doubt?.suspicion ?? -1)],
  manifest: ["As in the manifest", () => 0],
  objects: ["Most objects first", (a, b) => b.objects - a.objects],
};

export class ReviewView {
  constructor({ socket, state }) {
    this.socket = socket;
    this.state = state;
    this.run = 0;
    this.clips = [];
    this.rows = new Map();
    this.chosen = null;
    this.scope = "all";
    this.fix = null; // a mask that is being made anew
    this.player = new Player({
      rowsAt: (index) => this.rowsAt(index),
      keyOf: (index) => `${this.version} ${this.fix?.shown?.i === index ? this.fix.version : ""}`,
      decorate: (context, scale, index) => this.prompts.draw(context, scale, index),
    });
    this.version = 0;
    this.prompts = new Prompts(this.player, () => this.fix, () => this.player.redraw(), (index) => this.askModel(index));
    this.player.over.addEventListener("click", (event) => this.fix || this.pick(event));
    this.player.addEventListener("problem", (event) => toast(event.detail, "error"));
    this.player.addEventListener("frame", () => this.showHere());
    this.timeline = new Timeline(this.player);
    this.timeline.addEventListener("choose", (event) => this.choose(event.detail));
    socket.on("revised", (event) => this.revised(event));
    socket.on("preview", (event) => this.answered(event));
    socket.on("refused", (event) => this.fix && event.ticket === "fix" && toast(event.message, "error"));
    this.build();
  }

  build() {
    this.filter = el("input", { type: "search", placeholder: "Filter by name or phrase", "aria-label": "Filter", oninput: () => this.listClips() });
    this.kind = el("select", { "aria-label": "Status", onchange: () => this.listClips() }, ["all", "to do", "accepted", "corrected", "done", "failed", "left"].map((each) => el("option", { value: each }, each)));
    this.sort = el("select", { "aria-label": "Order", onchange: () => this.listClips() }, Object.entries(SORTS).map(([name, [title]]) => el("option", { value: name }, title)));
    this.runs = el("select", { "aria-label": "Run", hidden: this.state.runs.length < 2, onchange: () => this.openRun(Number(this.runs.value)) }, this.state.runs.map((each) => el("option", { value: each.number }, each.name)));
    this.list = el("ul", { class: "clips", "aria-label": "Clips" });
    this.count = el("p", { class: "status" });
    this.side = el("aside", { class: "side" }, el("h2", {}, "Clips"), this.runs, this.filter, el("div", { class: "row" }, this.kind, this.sort), this.count, this.list);

    this.author = el("input", { type: "text", maxLength: 100, placeholder: "your user name", value: localStorage.getItem("author") ?? "", "aria-label": "Your name", onchange: () => localStorage.setItem("author", this.author.value.trim()) });
    this.who = el("h2", {}, "Object");
    this.label = el("input", { type: "text", maxLength: 200, "aria-label": "Label", onkeydown: (e) => e.key === "Enter" && this.rename() });
    this.other = el("input", { type: "number", class: "number", min: 1, "aria-label": "Other id" });
    this.scopes = el("div", { class: "segments", role: "radiogroup", "aria-label": "Frames" }, Object.entries(SCOPES).map(([scope, name]) => el("button", { role: "radio", data: { scope }, onclick: () => this.setScope(scope) }, name)));
    this.first = el("input", { type: "number", class: "number", min: 0, value: 0, "aria-label": "First frame of the range" });
    this.last = el("input", { type: "number", class: "number", min: 0, value: 0, "aria-label": "Last frame of the range" });
    this.rangeRow = el("div", { class: "row range", hidden: true }, "frames", this.first, "to", this.last);
    const act = (name, title, what) => el("button", { title, onclick: what }, name);
    this.editing = el("section", { class: "editing" }, this.who,
      this.scopes, this.rangeRow,
      el("div", { class: "row" }, this.label, act("Rename", "Another label (Enter)", () => this.rename())),
      el("div", { class: "row" }, "with", this.other,
        act("Set id", "Give the object this id (i)", () => this.withOther("set_id", "to")),
        act("Swap", "The two change ids (x)", () => this.withOther("swap", "other")),
        act("Merge", "Take the other object in (m)", () => this.withOther("merge", "other"))),
      el("div", { class: "row" },
        act("Split here", "From this frame on another object (t)", () => this.split()),
        act("Delete", "Gone from these frames (d)", () => this.remove()),
        act("New mask", "Click the mask anew on this frame (n)", () => this.startFix())));
    this.useButton = el("button", { class: "primary", disabled: true, onclick: () => this.useFix() }, "Use this mask");
    this.fixing = el("section", { class: "fixing", hidden: true }, el("h2", {}, "New mask"),
      el("p", { class: "hint" }, "Click on what belongs to it, right-click on what does not, or drag a box. The model draws the mask."),
      el("div", { class: "row" }, this.useButton, el("button", { onclick: () => this.endFix() }, "Never mind")));
    this.drafts = el("section", { class: "drafts", hidden: true });
    this.doubt = el("p", { class: "status doubt" });
    this.note = el("p", { class: "status note", role: "status" });
    this.history = el("ol", { class: "history", reversed: true, "aria-label": "Corrections" });
    this.undoButton = el("button", { class: "icon", title: "Take back your last correction (Ctrl Z)", "aria-label": "Undo", onclick: () => this.back("undo") }, "↶");
    this.redoButton = el("button", { class: "icon", title: "Bring it back (Ctrl ⇧ Z)", "aria-label": "Redo", onclick: () => this.back("redo") }, "↷");
    const opacity = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.player.opacity, "aria-label": "Opacity", oninput: () => { this.player.opacity = Number(opacity.value); this.player.redraw(); } });
    this.aloneBox = el("input", { type: "checkbox", onchange: () => this.alone(this.aloneBox.checked) });
    this.objects = el("ul", { class: "objects", "aria-label": "Objects of this frame" });
    this.panel = el("aside", { class: "panel" },
      el("section", {}, el("div", { class: "row" }, el("button", { class: "primary big", title: "It is right: accept it and go on (a)", onclick: () => this.accept() }, "✓ Accept, next"), this.undoButton, this.redoButton), this.note, this.doubt),
      this.drafts, this.fixing, this.editing,
      el("section", {}, el("h2", {}, "On this frame"), this.objects, el("div", { class: "row" }, el("label", { class: "check" }, this.aloneBox, "chosen one alone"), "masks", opacity)),
      el("section", {}, el("h2", {}, "Corrections"), this.history, el("label", { class: "row you" }, "You are", this.author)));
    this.node = el("div", { class: "try review" }, this.side, el("div", { class: "centre" }, el("div", { class: "screens" }, this.player.node), this.timeline.node), this.panel);
    this.setScope("all");
  }

  async enter() {
    keys([
      ...PLAYING(this.player),
      { keys: ["a"], says: "accept the clip and go to the next", act: () => this.accept() },
      { keys: ["j"], says: "next clip", act: () => this.next(1) },
      { keys: ["k"], says: "clip before", act: () => this.next(-1) },
      { keys: ["Tab"], says: "next object of this frame", act: () => this.nextObject() },
      { keys: ["s"], says: "chosen object alone, or all", act: () => this.alone(this.player.only === null) },
      { keys: ["1"], says: "corrections: everywhere", act: () => this.setScope("all") },
      { keys: ["2"], says: "corrections: from this frame on", act: () => this.setScope("on") },
      { keys: ["3"], says: "corrections: on this frame", act: () => this.setScope("frame") },
      { keys: ["4"], says: "corrections: on the range", act: () => this.setScope("range") },
      { keys: ["["], says: "the range begins at this frame", act: () => this.setRange(this.first) },
      { keys: ["]"], says: "the range ends at this frame", act: () => this.setRange(this.last) },
      { keys: ["r"], says: "rename", act: () => { this.label.focus(); this.label.select(); } },
      { keys: ["o"], says: "type the other object's id", act: () => { this.other.focus(); this.other.select(); } },
      { keys: ["i"], says: "set the id", act: () => this.withOther("set_id", "to") },
      { keys: ["x"], says: "swap with the other object", act: () => this.withOther("swap", "other") },
      { keys: ["m"], says: "merge the other object into this one", act: () => this.withOther("merge", "other") },
      { keys: ["t"], says: "split: another object from this frame on", act: () => this.split() },
      { keys: ["d", "Delete"], says: "delete", act: () => this.remove() },
      { keys: ["n"], says: "new mask by clicks", act: () => this.startFix() },
      { keys: ["Enter"], says: "use the new mask", act: () => this.fix && this.useFix() },
      { keys: ["Escape"], says: "leave the new mask", act: () => this.endFix() },
      { keys: ["q"], says: "new mask: include what is under the pointer", act: () => this.prompts.atPointer(true) },
      { keys: ["e"], says: "new mask: exclude it", act: () => this.prompts.atPointer(false) },
      { keys: ["ctrl+z"], says: "undo", act: (event) => this.back(event.shiftKey ? "redo" : "undo") },
      { keys: ["ctrl+y"], says: "redo", act: () => this.back("redo") },
      { keys: ["l"], says: "labels on or off", act: () => { this.player.labels = !this.player.labels; this.player.redraw(); } },
      { keys: ["?"], says: "this list", act: () => {} },
    ]);
    this.looking = setInterval(() => this.refresh(), 10000);
    if (!this.clips.length) await this.openRun(this.run);
  }

  leave() {
    this.player.pause();
    clearInterval(this.looking);
  }

  // A run under way, or a recording: what is done since is there, too.
  async refresh() {
    const { run } = this;
    if (document.hidden || !(this.grows || this.clips.some((each) => each.status === "left"))) return;
    try {
      const { clips } = await get(`/api/runs/${run}`);
      if (run !== this.run) return;
      const known = new Map(this.clips.map((each) => [each.clip, each]));
      const done = () => this.clips.filter((each) => each.status === "done").length, before = done();
      this.clips = clips.map((each) => Object.assign(known.get(each.clip) ?? {}, each));
      this.listClips();
      if (done() > before) await this.rank();
      if (!this.clip) this.openFirst();
    } catch { /* the next time */ }
  }

  async rank() {
    const { run } = this, doubts = await get(`/api/runs/${run}/doubts`);
    if (run !== this.run) return;
    for (const each of this.clips) each.doubt = doubts[each.clip];
    this.listClips();
    this.showDoubt();
  }

  // Clips

  async openRun(number) {
    this.run = number;
    try {
      const { clips, grows } = await get(`/api/runs/${number}`);
      this.clips = clips;
      this.grows = grows;
      this.rank().catch(() => {});
      this.listClips();
      await this.openFirst();
    } catch (error) { toast(error.message, "error", 15); }
  }

  async openFirst() {
    const wanted = decodeURIComponent(location.hash.split("/")[1] ?? "");
    const first = this.clips.find((each) => each.clip === wanted && each.status === "done") ?? this.shownClips().find((each) => each.status === "done");
    if (first) await this.open(first.clip);
  }

  shownClips() {
    const text = this.filter.value.trim().toLowerCase(), kind = this.kind.value;
    const fits = (each) => ({ all: true, "to do": each.status === "done" && !each.accepted, accepted: each.accepted, corrected: each.corrections > 0 })[kind] ?? each.status === kind;
    return this.clips.filter((each) => fits(each) && (!text || `${each.clip} ${each.prompts.join(" ")}`.toLowerCase().includes(text))).sort(SORTS[this.sort.value][1]);
  }

  listClips() {
    const shown = this.shownClips();
    this.count.textContent = `${shown.length} of ${this.clips.length} · ${this.clips.filter((each) => each.accepted).length} accepted`;
    fill(this.list, shown.slice(0, 500).map((each) => el("li", {}, el("button", { class: each.clip === this.clip?.clip ? "chosen" : "", title: each.message || each.doubt?.why || each.clip, data: { clip: each.clip }, onclick: () => this.open(each.clip) },
      each.status === "done" ? el("img", { src: `/api/clips/${each.key}/stills/0`, alt: "", loading: "lazy", width: 64, height: 40 }) : el("i", { class: "blank" }),
      el("span", {}, each.clip, el("small", {}, each.status === "done" ? `${each.objects} obj. · ${each.frames} fr.${each.doubt ? ` · ${each.doubt.suspicion.toFixed(2)}` : ""}` : each.reason || each.status)),
      each.accepted ? el("em", { class: "ok", title: "accepted" }, "✓") : each.corrections ? el("em", { title: "corrections" }, `✎${each.corrections}`) : null))));
  }

  async open(clipId) {
    const entry = this.clips.find((each) => each.clip === clipId);
    if (!entry) return;
    if (entry.status !== "done") { toast(`${clipId}: ${entry.message || entry.status}`, "info", 10); return; }
    if (this.opening === clipId || (entry === this.clip && this.player.clip)) return; // it is there
    this.opening = clipId;
    const before = this.player.close();
    this.endFix();
    this.node.classList.add("busy");
    try {
      this.clip = entry;
      this.chosen = null;
      this.rows = new Map();
      const clip = await get(`/api/runs/${this.run}/clips/${encodeURIComponent(entry.clip)}/picture`);
      await this.reload();
      if (this.clip !== entry) return; // another was opened meanwhile
      history.replaceState(null, "", `#review/${encodeURIComponent(clipId)}`);
      this.first.value = 0;
      this.last.value = clip.indices ? clip.indices.at(-1) : clip.times.length - 1;
      this.listClips();
      this.note.textContent = clip.missing ? `There are no pictures: ${clip.missing}` : clip.other_size;
      this.canFix = !clip.missing && !clip.other_size;
      await this.player.load(clip);
      if (this.chosen === null) this.choose(this.timeline.tracks[0]?.id ?? null);
      this.showDrafts();
      this.showDoubt();
    } catch (error) {
      this.player.clip ??= before;
      toast(error.message, "error", 12);
    }
    if (this.opening === clipId) this.opening = null;
    this.node.classList.remove("busy");
  }

  async reload() {
    const entry = this.clip, found = await get(`/api/runs/${this.run}/clips/${encodeURIComponent(entry.clip)}`);
    if (entry !== this.clip) return;
    this.revision = found.revision;
    this.rows = new Map(found.frames.map((frame) => [frame.i, frame.o.map(row)]));
    this.log = found.log;
    entry.accepted = found.accepted;
    entry.corrections = found.log.filter((each) => !each.undone).flatMap((each) => each.operations).filter((each) => !["accept", "revert"].includes(each.op)).length;
    this.version++;
    this.timeline.set(this.rows);
    this.showLog();
    this.listClips();
    this.choose(this.timeline.tracks.some((each) => each.id === this.chosen) ? this.chosen : null);
  }

  // Why triage doubts this clip, and where to look.
  showDoubt() {
    const doubt = this.clip?.doubt;
    fill(this.doubt, doubt?.why ? [`${doubt.why} `, el("button", { class: "quiet", title: "Go to the frame", onclick: () => this.player.showIndex(doubt.frame) }, `frame ${doubt.frame} →`)] : []);
  }

  next(by) {
    const shown = this.shownClips().filter((each) => each.status === "done");
    const at = shown.findIndex((each) => each.clip === this.clip?.clip);
    const to = shown[at < 0 ? 0 : at + by];
    if (to) this.open(to.clip);
    else toast(by > 0 ? "That was the last clip." : "That is the first clip.");
  }

  // Objects

  rowsAt(index) {
    const rows = this.rows.get(index) ?? [];
    if (this.fix?.shown?.i !== index) return rows;
    return [...rows.filter((each) => each.id !== this.fix.chosen), ...this.fix.shown.rows];
  }

  pick(event) {
    const at = this.player.at(event);
    if (!at) return;
    const inside = (this.rows.get(this.player.index) ?? []).filter(({ box }) => at[0] >= box[0] && at[0] < box[2] && at[1] >= box[1] && at[1] < box[3]);
    inside.sort((a, b) => a.area - b.area);
    if (inside[0]) this.choose(inside[0].id);
  }

  choose(id) {
    this.chosen = id;
    this.timeline.choose(id);
    if (this.player.only !== null) this.player.only = id;
    const track = this.timeline.tracks.find((each) => each.id === id);
    fill(this.who, track ? [el("i", { class: "dot", style: { background: css(id) } }), `Object ${id}`] : "Object: choose one");
    if (document.activeElement !== this.label) this.label.value = track?.prompt ?? ""; // not under somebody's fingers
    for (const each of this.editing.querySelectorAll("button, input")) each.disabled = !track;
    this.showHere();
    this.player.redraw();
  }

  nextObject() {
    const ids = (this.rows.get(this.player.index) ?? []).map((each) => each.id);
    if (ids.length) this.choose(ids[(ids.indexOf(this.chosen) + 1) % ids.length]);
  }

  alone(on) {
    this.player.only = on ? this.chosen : null;
    this.aloneBox.checked = on;
    this.player.redraw();
  }

  showHere() {
    const rows = this.rows.get(this.player.index) ?? [];
    fill(this.objects, rows.map((each) => el("li", { class: each.id === this.chosen ? "chosen" : "", onclick: () => this.choose(each.id) },
      el("i", { class: "dot", style: { background: css(each.id) } }), el("b", {}, String(each.id)), el("span", {}, each.prompt), el("small", { title: "detection and track score" }, `${each.score.toFixed(2)} · ${each.track.toFixed(2)}`))),
      rows.length ? null : el("li", { class: "empty" }, "Nothing."));
  }

  setScope(scope) {
    this.scope = scope;
    for (const button of this.scopes.children) button.setAttribute("aria-checked", button.dataset.scope === scope);
    this.rangeRow.hidden = scope !== "range";
  }

  setRange(input) {
    input.value = this.player.index;
    if (Number(this.first.value) > Number(this.last.value)) this.first.value = this.last.value = this.player.index;
    this.setScope("range");
  }

  span() {
    const here = this.player.index;
    return { all: null, on: [here, 2 ** 31 - 1], frame: [here, here], range: [Number(this.first.value), Number(this.last.value)] }[this.scope];
  }

  // Corrections

  operation(op, more) {
    const frames = this.span();
    return { op, object: this.chosen, ...(frames ? { frames } : {}), ...more };
  }

  rename() { if (this.chosen !== null && this.label.value.trim()) this.edit([this.operation("rename", { label: this.label.value.trim() })]); }

  withOther(op, name) {
    if (this.chosen === null) return;
    const other = Number(this.other.value);
    if (!other) { toast("Type the other object's id first."); this.other.focus(); return; }
    this.edit([this.operation(op, { [name]: other })]);
    if (op === "set_id" && this.scope === "all") this.chosen = other;
  }

  split() {
    if (this.chosen === null) return;
    const to = Math.max(...this.timeline.tracks.map((each) => each.id)) + 1;
    this.edit([{ op: "split", object: this.chosen, frame: this.player.index, to }]);
  }

  remove() { if (this.chosen !== null) this.edit([this.operation("delete", {})]); }

  async accept() {
    if (!this.clip || !await this.edit([{ op: "accept" }])) return;
    const done = this.clips.filter((each) => each.status === "done").sort(SORTS[this.sort.value][1]);
    const at = done.indexOf(this.clip), to = [...done.slice(at + 1), ...done.slice(0, at)].find((each) => !each.accepted);
    if (to) this.open(to.clip);
    else toast("All clips are accepted.");
  }

  async edit(operations, parent = this.revision) {
    const clip = this.clip.clip;
    try {
      await post(`/api/runs/${this.run}/clips/${encodeURIComponent(clip)}/edit`, { operations, parent, author: this.author.value });
      await this.reload();
      return true;
    } catch (error) {
      if (error.status === 409) {
        this.keep(clip, operations);
        toast(`${error.message}. Your change is kept as a draft.`, "error", 12);
        await this.reload();
        this.showDrafts();
      } else toast(error.message, "error", 10);
      return false;
    }
  }

  async back(what) {
    if (!this.clip) return;
    try {
      await post(`/api/runs/${this.run}/clips/${encodeURIComponent(this.clip.clip)}/${what}`, { author: this.author.value });
      await this.reload();
    } catch (error) { toast(error.message, "error", 8); }
  }

  // Somebody else has corrected this clip: shown at once, since an unseen change would make ours a conflict.
  async revised({ run, clip, revision }) {
    if (run !== this.run || clip !== this.clip?.clip || revision <= this.revision) return;
    await this.reload();
    const latest = this.log.at(-1);
    if (latest && latest.author !== this.author.value) toast(`${latest.author} has corrected this clip (revision ${latest.number}).`);
  }

  // Drafts live in this browser until they are applied or thrown away.
  draftsKey(clip) { return `draft ${this.state.runs[this.run].place} ${clip}`; }
  held(clip) { return JSON.parse(localStorage.getItem(this.draftsKey(clip)) ?? "[]"); }

  keep(clip, operations) { localStorage.setItem(this.draftsKey(clip), JSON.stringify([...this.held(clip), operations])); }

  showDrafts() {
    const clip = this.clip.clip, held = this.held(clip);
    this.drafts.hidden = !held.length;
    const without = (n) => { localStorage.setItem(this.draftsKey(clip), JSON.stringify(held.filter((_, k) => k !== n))); this.showDrafts(); };
    fill(this.drafts, el("h2", {}, "Drafts"), held.map((operations, n) => el("div", { class: "row" },
      el("span", { class: "say" }, operations.map(sentence).join("; ")),
      el("button", { onclick: async () => { if (await this.edit(operations)) without(n); } }, "Apply"),
      el("button", { class: "quiet", onclick: () => without(n) }, "Discard"))));
  }

  showLog() {
    fill(this.history, this.log.toReversed().map((each) => el("li", { class: each.undone ? "undone" : "", title: new Date(each.time * 1000).toLocaleString() },
      el("b", {}, String(each.number)), el("span", {}, each.operations.map(sentence).join("; ")), el("small", {}, each.author))));
    if (!this.log.length) fill(this.history, el("li", { class: "empty" }, "None yet."));
  }

  // A new mask by clicks

  startFix() {
    if (this.chosen === null) return;
    if (!this.canFix) { toast(this.note.textContent); return; }
    this.player.pause();
    const track = this.timeline.tracks.find((each) => each.id === this.chosen);
    this.fix = { clip: this.player.clip, own: [{ id: this.chosen, label: track.prompt, prompts: new Map() }], refinements: [], rows: new Map(), shown: null, base: this.chosen, chosen: this.chosen, version: 0 };
    this.useButton.disabled = true;
    this.fixing.hidden = false;
    this.editing.hidden = true;
  }

  endFix() {
    this.fix = null;
    this.fixing.hidden = true;
    this.editing.hidden = false;
    this.player.redraw();
  }

  askModel(index) {
    const { visual } = this.prompts.payload(this.fix, index);
    this.socket.send({ do: "run", preview: true, key: this.clip.key, phrases: [], visual, start: this.player.positionOf(index), first: 0, last: this.player.count - 1, ticket: "fix" });
  }

  answered(event) {
    if (!this.fix || event.ticket !== "fix" || event.key !== this.clip?.key) return;
    const frame = event.frames[0];
    this.fix.shown = { i: frame.i, rows: frame.o.map(row) };
    this.fix.version++;
    this.useButton.disabled = !this.fix.shown.rows.length;
    this.player.redraw();
  }

  async useFix() {
    const { fix } = this, mask = fix.shown?.rows.find((each) => each.id === fix.chosen);
    if (!mask) { toast("Click on the object first: there is no new mask yet."); return; }
    const { i } = fix.shown, { height, width } = fix.clip;
    if (await this.edit([{ op: "replace_mask", object: fix.chosen, frames: [i, i], label: fix.own[0].label, mask: { size: [height, width], counts: mask.rle } }])) this.endFix();
  }
}

function frames(operation) {
  if (!operation.frames) return "";
  const [first, last] = operation.frames;
  return first === last ? ` on frame ${first}` : last >= 2 ** 31 - 1 ? ` from frame ${first}` : ` on frames ${first} to ${last}`;
}

function sentence(each) {
  const where = frames(each);
  return {
    rename: () => `${each.object} is “${each.label}”${where}`,
    set_id: () => `${each.object} becomes ${each.to}${where}`,
    swap: () => `${each.object} and ${each.other} swapped${where}`,
    merge: () => `${each.other} merged into ${each.object}${where}`,
    split: () => `${each.object} is ${each.to} from frame ${each.frame}`,
    delete: () => `${each.object} deleted${where}`,
    add: () => `${each.object} added`,
    replace_mask: () => `new mask of ${each.object}${where}`,
    accept: () => "accepted",
    revert: () => `takes back ${each.entries.join(", ")}`,
  }[each.op]?.() ?? each.op;
}
