// "Save as job". Loaded when somebody asks for it.

import { post } from "./api.js";
import { el, toast } from "./dom.js";

// view: of Try.
export async function job(view) {
  const { files, notes } = await post("/api/job", { ...view.order(), keys: view.clips.map((each) => each.key) });
  for (const [name, text] of Object.entries(files)) save(name, text);
  toast(notes.join(" "), "info", 12);
}

function save(name, text) {
  const href = URL.createObjectURL(new Blob([text]));
  el("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}
