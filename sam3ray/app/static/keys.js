// Keyboard: the controls of the view shown name their keys.

function isTyping(target) {
  return target.matches?.("textarea, select, input:not([type=range], [type=checkbox])");
}

// Many keyboards have signs such as [ on a key with Alt.
const isSign = ({ key, altKey }) => altKey && /^[^\w\s]$/.test(key);

function pressed(event) {
  const { key, ctrlKey, metaKey, shiftKey } = event, name = key === " " ? "Space" : key.length === 1 ? key.toLowerCase() : key;
  const ctrl = (ctrlKey || metaKey) && !isSign(event);
  return `${ctrl ? "ctrl+" : ""}${shiftKey && (ctrl || key.length > 1) ? "shift+" : ""}${name}`;
}

// A button that was clicked on with a mouse does not keep the keys to itself.
document.addEventListener("click", ({ detail, target }) => detail && target.closest?.("button, summary")?.blur(), true);

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (event.key === "Escape") target.blur?.();
  if (isTyping(target) || (event.altKey && !isSign(event)) || document.querySelector("dialog[open]")) return;
  const key = pressed(event);
  if (/^(Enter|Space)$/.test(key) && target.matches?.("button, a, summary")) return; // it is for the control
  if (key === "?") help();
  const able = (each) => !each.matches(":disabled") && each.dataset.key.split(" ").includes(key);
  const control = [...document.querySelectorAll("[data-key]")].find(able);
  if (!control && key !== "?") return;
  event.preventDefault();
  if (control && isTyping(control)) control.select();
  else control?.click();
});

export async function help() { (await import("./help.js")).show(); }
