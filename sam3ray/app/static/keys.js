// Keyboard: one table that both acts and explains itself on `?`.

import { el } from "./dom.js";

let pages = [];

export function keys(list) { pages = list; }

function typing(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName) ||
    (target.tagName === "INPUT" && !/^(range|checkbox|button)$/.test(target.type)));
}

const name = (event) => `${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${event.shiftKey && event.key.length > 1 ? "shift+" : ""}${event.key.length === 1 ? event.key.toLowerCase() : event.key}`;

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.activeElement instanceof HTMLElement) document.activeElement.blur();
  if (typing(event.target) || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "?") { help(); event.preventDefault(); return; }
  const pressed = name(event);
  const found = pages.find((each) => each.keys.includes(pressed));
  if (!found) return;
  event.preventDefault();
  found.act(event);
});

const SHOWN = { " ": "space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", "shift+ArrowLeft": "⇧ ←", "shift+ArrowRight": "⇧ →" };

export function help() {
  const dialog = el("dialog", { class: "help" },
    el("h2", {}, "Keyboard"),
    el("table", {}, ...pages.filter((each) => each.says).map((each) => el("tr", {},
      el("td", {}, ...each.keys.map((key) => el("kbd", {}, SHOWN[key] ?? key.replace("ctrl+", "Ctrl ").replace("shift+", "⇧ ")))),
      el("td", {}, each.says)))),
    el("form", { method: "dialog" }, el("button", { class: "primary" }, "Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

export const PLAYING = (player) => [
  { keys: [" "], says: "play or pause", act: () => player.toggle() },
  { keys: ["ArrowLeft"], says: "one frame back", act: () => player.step(-1) },
  { keys: ["ArrowRight"], says: "one frame on", act: () => player.step(1) },
  { keys: ["shift+ArrowLeft"], says: "ten frames back", act: () => player.step(-10) },
  { keys: ["shift+ArrowRight"], says: "ten frames on", act: () => player.step(10) },
  { keys: ["Home"], says: "first frame", act: () => player.show(0) },
  { keys: ["End"], says: "last frame", act: () => player.show(player.count - 1) },
];
