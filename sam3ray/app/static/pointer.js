// What a pointer says on a stage: a click, a box, or a line that is being drawn.

const DRAG = 6; // pixels of the screen from which a press is no click

export const NO_OBJECT = "A negative click corrects an object: select one, or click on one first.";

export const rounded = (values) => values.map((v) => Math.round(v * 100) / 100);

// The box between two corners.
export const between = ([x0, y0], [x1, y1]) => rounded([Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)]);

export class Pointer {
  // told: pressed(at) before anything else, drawn(from, to, right) on the way, then click(at, right) or box(box).
  //   With `drawn`, there are neither clicks nor boxes while it returns true.
  // Attributes: at, where the pointer is; box, what is being dragged.
  constructor(stage, told) {
    Object.assign(this, { stage, told, at: null, box: null, press: null });
    const { over } = stage;
    over.addEventListener("contextmenu", (event) => event.preventDefault());
    over.addEventListener("pointerleave", () => { this.at = null; stage.redraw(); });
    for (const name of ["down", "move", "up", "cancel"]) over.addEventListener(`pointer${name}`, (event) => this[name](event));
  }

  down(event) {
    const at = this.stage.at(event), right = event.button === 2;
    if (!at || event.button % 2 || this.told.pressed?.(at) === false) return; // not the wheel
    this.stage.over.setPointerCapture(event.pointerId);
    this.press = { at, last: at, x: event.clientX, y: event.clientY, right };
    this.press.draws = this.told.drawn?.(at, at, right);
  }

  move(event) {
    this.at = this.stage.at(event);
    this.told.moved?.();
    const { press } = this;
    if (!press || !this.at) return;
    if (press.draws) this.told.drawn(press.last, this.at, press.right);
    press.last = this.at;
    press.moved ||= Math.hypot(event.clientX - press.x, event.clientY - press.y) > DRAG;
    this.box = press.moved && !press.right && !press.draws ? between(press.at, this.at) : null;
    if (this.box) this.stage.redraw();
  }

  // It has become a gesture of the browser's.
  cancel() {
    if (this.press?.draws) this.told.drawnOut();
    this.press = this.box = null;
    this.stage.redraw();
  }

  up(event) {
    const { press, box } = this;
    this.press = this.box = null;
    if (!press) return;
    if (press.draws) this.told.drawnOut?.();
    else if (!box) this.told.click(this.stage.at(event) ?? press.last, press.right);
    else if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.told.box(box);
  }
}
