// The page: which view is shown, the model's state, light and dark.

import { get, Socket } from "./api.js";
import { el, fill, toast } from "./dom.js";
import { help } from "./keys.js";
import { LiveView } from "./live.js";
import { ReviewView } from "./review.js";
import { TryView } from "./try.js";

const socket = new Socket();
const main = document.querySelector("main"), nav = document.querySelector("nav"), model = document.querySelector(".model");
const views = {};
let state, shown;

document.querySelector("#help").addEventListener("click", help);
document.querySelector("#theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});
if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");

socket.on("model", ({ state: now, message, info }) => {
  model.dataset.state = now;
  model.title = message;
  const name = (info.checkpoint ?? state?.checkpoint ?? "model").split("/").pop();
  model.textContent = { loading: `${name}: loading`, ready: `${name} · ${info.device ?? ""} ${info.dtype ?? ""}`, failed: "no model" }[now];
  if (now === "failed") toast(`The model cannot be used: ${message}`, "error", 20);
  else if (now === "loading" && message.includes("ended")) toast(message, "error", 12);
});
socket.addEventListener("lost", () => {
  model.dataset.state = "failed";
  model.textContent = "not connected";
});

const PAGES = [["try", "Try", (api) => new TryView(api)], ["review", "Review", (api) => new ReviewView(api)], ["live", "Live", (api) => new LiveView(api)]];

function route() {
  const wanted = location.hash.slice(1).split("/")[0];
  const pages = PAGES.filter(([each]) => each !== "review" || state.runs.length);
  const name = pages.some(([each]) => each === wanted) ? wanted : state.runs.length ? "review" : "try";
  if (shown === name) return;
  views[shown]?.leave?.();
  shown = name;
  views[name] ??= PAGES.find(([each]) => each === name)[2]({ socket, state });
  fill(main, views[name].node);
  for (const link of nav.children) link.toggleAttribute("aria-current", link.hash === `#${name}`);
  views[name].enter?.();
}

try {
  state = await get("/api/state");
  fill(nav, PAGES.filter(([name]) => name !== "review" || state.runs.length).map(([name, title]) => el("a", { href: `#${name}` }, title)));
  addEventListener("hashchange", route);
  route();
} catch (error) {
  fill(main, el("p", { class: "empty" }, `The page cannot be shown: ${error.message}`));
}
