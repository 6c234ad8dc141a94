// What `?` shows: the keys of the view that is shown.

import { el, fill, spelled } from "./dom.js";

export function show() {
  const rows = [...document.querySelectorAll("[data-key]")].map((each) => el("tr", {},
    el("td", {}, each.dataset.key.split(" ").map((key) => el("kbd", {}, spelled(key)))), el("td", {}, each.dataset.says)));
  fill(document.querySelector(".help tbody"), rows);
  document.querySelector(".help").showModal();
}
