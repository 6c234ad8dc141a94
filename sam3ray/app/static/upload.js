// Sends a file. Loaded with the first one.

import { checked } from "./api.js";

export function upload(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of uploads
    request.open("POST", `/api/upload?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => checked(new Response(request.response, request)).then((each) => each.json()).then(resolve, reject);
    request.onerror = () => reject(new Error("The connection was lost."));
    request.send(file);
  });
}
