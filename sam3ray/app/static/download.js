// Downloads of a result. Loaded when somebody asks for one.

import { post } from "./api.js";
import { el, toast } from "./dom.js";

// The server makes the file, and says why where it cannot; then the browser loads it.
export async function download(view, kind) {
  const { work } = view, least = view.threshold("new_det_thresh") ?? 0, min = least > (work.ran?.new_det_thresh ?? 0) ? least : 0;
  toast("The download starts when the file is ready.");
  const { path, notes } = await post(`/api/results/${work.result}/download/${kind}?min_score=${min}`);
  el("a", { href: path, download: "" }).click();
  if (notes.length) toast(notes.join("; "), "info", 12);
}
