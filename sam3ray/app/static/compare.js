// An earlier result beside the latest, on the same frame. Loaded when somebody asks for it.

import { get } from "./api.js";
import { fill } from "./dom.js";
import { rowsByFrame } from "./masks.js";
import { Stage } from "./stage.js";
import { about } from "./try.js";

export class Comparison {
  // view: of Try, whose parts it uses.
  constructor(view, id, { frames, asked }) {
    Object.assign(this, { view, id, rows: rowsByFrame(frames), title: about(asked) });
    view.beside.hidden = false;
    this.stage = new Stage(view.otherScreen, "The frame of the other result");
    this.stage.setSize(view.work.clip);
  }

  frameShown(bitmap) {
    const { view, stage } = this, { work, player } = view, { index } = player, rows = this.rows.get(index) ?? [];
    stage.redraw = () => stage.show(bitmap, rows, { key: `beside ${this.id} ${index}` });
    stage.redraw().then(() => { stage.picture.dataset.frame = index; });
    view.otherCaption.textContent = said(this.title, rows, this.rows);
    view.caption.textContent = said(`Newest · ${about(work.asked ?? work.results.at(-1).asked)}`, view.rowsAt(index), work.rows);
  }

  close() {
    const { view } = this;
    view.beside.hidden = true;
    fill(view.otherScreen);
    view.caption.textContent = view.compare.value = "";
  }
}

export async function compare(view, id) {
  const { work } = view, result = await get(`/api/results/${id}`);
  if (work === view.work) view.other = new Comparison(view, id, result);
}

function said(title, here, all) {
  const count = new Set([...all.values()].flat().map((each) => each.id)).size;
  return `${title}: ${here.length} objects on this frame, ${count} in all.`;
}
