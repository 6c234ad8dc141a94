// The page: which view is shown, the model's state, light and dark.

import { get, reached, Socket } from "./api.js";
import { el, fill, toast } from "./dom.js";
import { help } from "./keys.js";

const socket = new Socket(), root = document.documentElement, views = {};
const [main, nav, model] = ["main", "nav", ".model"].map((each) => document.querySelector(each));
const { first, ...scripts } = main.dataset; // the page that is shown first, and the scripts of each
let state, shown;

document.querySelector("#help").onclick = help;
document.querySelector("#theme").onclick = () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.theme = root.dataset.theme = dark ? "light" : "dark";
};
if (localStorage.theme) root.dataset.theme = localStorage.theme;

function tell(now, text, title = "") {
  Object.assign(model, { textContent: text, title });
  model.dataset.state = now;
}
socket.on("model", ({ state: now, message, info }) => {
  const name = (info.checkpoint ?? state?.checkpoint ?? "model").split("/").pop();
  tell(now, { ready: `${name} · ${info.device ?? ""} ${info.dtype ?? ""}`, failed: "no model" }[now] ?? `${name}: loading`, message);
  if (now === "failed") toast(`The model cannot be used: ${message}`, "error", 20);
  else if (now === "restarting") toast(message, "error");
});
socket.addEventListener("lost", () => tell("failed", "not connected"));

// All of a page's scripts at once: its own is the first of them.
async function load(name) {
  const loaded = await reached(Promise.all(scripts[name].split(" ").map((each) => import(each))));
  return loaded[0].default;
}

function wanted() {
  const name = location.hash.slice(1).split("/")[0];
  return Object.hasOwn(scripts, name) && (name !== "review" || first === "review") ? name : first; // there may be no run
}

async function route() {
  const name = wanted();
  if (shown === name) return;
  views[shown]?.leave();
  shown = name;
  for (const link of nav.children) link.toggleAttribute("aria-current", link.hash === `#${name}`);
  if (!views[name]) fill(main); // what is done meanwhile is not meant for the last view
  const View = await load(name);
  if (shown !== name) return; // another page was asked for meanwhile
  views[name] ??= new View({ socket, state });
  fill(main, views[name].node);
  views[name].enter();
}

async function show() {
  try {
    state ??= await get("/api/state");
    nav.querySelector("[href='#review']").hidden = !state.runs.length;
    await route();
  } catch (error) {
    shown = null;
    fill(main, el("p", { class: "empty" }, `The page cannot be shown: ${error.message}`));
  }
}

load(wanted()).catch(() => {}); // `show` says what is wrong
addEventListener("hashchange", show);
show();
