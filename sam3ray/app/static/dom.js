// Elements: a view's markup comes from a template, what it lists is made here. Text from strangers is only ever text.

import { css } from "./colours.js";

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key === "do") node.dataset.do = value;
    else if (key === "style") for (const each of Object.entries(value)) node.style.setProperty(...each);
    else if (key === "class") node.className = value;
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  return fill(node, ...children);
}

// Gives a node these children. Those that look the same stay: a click on them, or text typed into them, is not lost.
// Those with the same data-of stay, too, and take on the new looks: a press that has begun on one ends on the same. Only
// those whose order has changed are moved: others are put between them, or go.
export function fill(node, ...children) {
  return renew(node, children.flat().filter(Boolean).map((each) => (each instanceof Node ? each : new Text(each))));
}

const of = (node) => node?.dataset?.of;

function renew(node, fresh, isPart) {
  const had = new Map([...node.childNodes].map((each) => [of(each), each])), ids = new Set(fresh.map(of));
  for (const [id, old] of had) if (id && !ids.has(id)) old.remove();
  fresh.forEach((child, n) => {
    const id = of(child), here = () => node.childNodes[n];
    while (id && here() && !of(here())) here().remove();
    const at = here(), old = id ? had.get(id) : !of(at) && at;
    if (!old || old !== at) node.insertBefore(old || child, at ?? null);
    if (!old || old.isEqualNode(child)) return;
    if (id || (isPart && old.nodeName === child.nodeName && !/INPUT|#/.test(old.nodeName))) {
      for (const name of [old, child].flatMap((each) => each.getAttributeNames())) {
        const value = child.getAttribute(name);
        if (value === null) old.removeAttribute(name);
        else if (value !== old.getAttribute(name)) old.setAttribute(name, value);
      }
      renew(old, [...child.childNodes], true);
    } else old.replaceWith(child);
  });
  while (node.childNodes.length > fresh.length) node.lastChild.remove();
  return node;
}

const typed = new WeakSet(); // fields with text that nothing has been done with yet

// Shows a value in a field, unless somebody has typed something else there.
export function put(field, value) { if (!typed.has(field)) field.value = value; }

export function discard(...fields) { for (const field of fields) typed.delete(field); }

// A copy of a template. Its parts become the view's, and its controls call the view's methods with the control: once what
// they are about is there. A press counts for the control that it began on, even if that lies elsewhere when the button
// comes up: a list may have changed. view.opening: a promise of that; view.isEmpty: there is none. Controls in [data-now] never wait.
export function attach(view, name) {
  const node = document.getElementById(name).content.firstElementChild.cloneNode(true);
  for (const part of node.querySelectorAll("[data-part]")) view[part.dataset.part] = part;
  for (const control of node.querySelectorAll("[data-key]")) {
    control.dataset.says = control.title;
    control.title += ` (${spelled(control.dataset.key.split(" ")[0])})`;
    if (/^\W+$/.test(control.textContent)) control.ariaLabel ??= control.dataset.says; // a sign alone
  }
  let pressed = {};
  node.addEventListener("pointerdown", (event) => { pressed = event; }, true);
  node.addEventListener("input", ({ target }) => typed.add(target), true);
  node.addEventListener("focusout", ({ target }) => target.dataset.do && !view.opening && discard(target)); // left as it was
  for (const type of ["click", "input", "change", "submit"]) {
    node.addEventListener(type, (event) => {
      const isStill = Math.hypot(event.x - pressed.x, event.y - pressed.y) < 4; // NaN where nothing was pressed
      const control = controlOf(event) ?? (type === "click" && isStill && controlOf(pressed));
      if (!control || calledOn(control) !== type) return;
      event.stopPropagation(); // a view within a view has handled it
      if (type === "submit") event.preventDefault();
      const isNow = control.closest("[data-now]"), act = () => {
        if (view.isEmpty && !isNow) return;
        discard(...(control.elements ?? [control]));
        view[control.dataset.do](control);
      };
      if (view.opening && !isNow) whenOpen(view).then(act);
      else act();
    });
  }
  return node;
}

export async function whenOpen(view) {
  while (view.opening) await view.opening; // one may follow another
}

const controlOf = ({ target }) => target.closest("[data-do]");

function calledOn(control) {
  if (control.matches("form")) return "submit";
  if (control.matches("[type=range], [type=search]")) return "input";
  return control.matches("input, select") ? "change" : "click";
}

const SIGNS = { Space: "space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };
export const spelled = (key) => key.split("+").map((part) => SIGNS[part] ?? { shift: "⇧", ctrl: "Ctrl" }[part] ?? part).join(" ");

// Sliders and what they say, by their names. valueOf(name): undefined or null where it is not known yet.
export function slide(sliders, valueOf) {
  for (const input of sliders.querySelectorAll("input")) {
    const value = valueOf(input.name) ?? null;
    if (value !== null) input.nextElementSibling.value = input.value = value;
  }
}

export function check(group, value) {
  for (const button of group.children) button.ariaChecked = String(button.value === value);
}

export const dot = (id) => el("i", { class: "dot", style: { background: css(id) } });

// An object in a list; `more` is said of it. A click anywhere on it selects it, and so does its number by key.
export function objectItem(id, isChosen, ...more) {
  const number = el("button", { class: "id", ariaLabel: `Select object ${id}` }, String(id));
  return el("li", { class: isChosen ? "chosen" : "", do: "choose", value: id, "data-of": id }, dot(id), number, ...more);
}

export const empty = (text) => el("li", { class: "empty" }, text);

// A phrase or a box with its ×; `act` is the method of the view that removes it.
export function chip(text, act, value, title) {
  return el("span", { class: "chip", "data-of": act + value }, text, el("button", { class: "quiet", ariaLabel: title, do: act, value }, "×"));
}

// A score, unless it is as good as certain.
export const unsure = (score, before) => (score < 0.995 ? before + score.toFixed(2) : "");

export const phrasesIn = (text) => text.split(/[,;\n]/).map((each) => each.trim()).filter(Boolean);

// error: or an event of the server, with its message.
export const complain = ({ message }) => toast(message, "error");

export function toast(text, kind = "info", seconds = kind === "error" ? 12 : 6) {
  const note = el("div", { class: `toast ${kind}` }, text, el("button", { class: "quiet", ariaLabel: "Close", onclick: () => note.remove() }, "×"));
  const shown = document.querySelector(".toasts");
  for (const old of shown.children) if (old.firstChild.data === text) old.remove(); // said again: once is enough
  shown.append(note);
  setTimeout(() => note.remove(), seconds * 1000);
}
