// Sends files, one after the other. Loaded with the first one.

import { checked } from "./api.js";
import { el } from "./dom.js";

// view: of Try. turn: see its `add`.
export async function upload(view, files, turn) {
  const { arriving } = view;
  for (const file of files) {
    const bar = el("progress", { max: 1, value: 0 }), item = el("li", { class: "loading" }, file.name, bar);
    arriving.push(item);
    view.listClips();
    await view.add(send(file, (part) => { bar.value = part; }).then((clip) => [clip]), turn, `${file.name}: `);
    arriving.splice(arriving.indexOf(item), 1);
    view.listClips();
  }
}

function send(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of uploads
    request.open("POST", `/api/upload?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => checked(new Response(request.response, request)).then((each) => each.json()).then(resolve, reject);
    request.onerror = () => reject(new Error("The connection was lost."));
    request.send(file);
  });
}
