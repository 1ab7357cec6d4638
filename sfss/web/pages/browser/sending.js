// One file on its way to the server.

import { urlOf } from "./address.js";
import { anotherToken, fieldsWith, Refusal, sentenceIn, token, unreachable } from "./service.js";

// Send `file` to `path`; `progressed` is called with the bytes that have gone out. Unless `replaces`,
// what is there stays: a `Refusal` with status 412. `signal` cancels: an AbortError.
export async function send(file, path, { replaces, progressed, signal }) {
  for (;;) {
    const tried = token();
    try {
      await sendOnce(file, path, { replaces, progressed, signal });
      return;
    } catch (error) {
      if (error.status !== 401 || !(await anotherToken(tried, error.message))) {
        throw error;
      }
    }
  }
}

// Not by fetch(), which does not tell how much of a body has gone out.
function sendOnce(file, path, { replaces, progressed, signal }) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    request.open("PUT", urlOf(path));
    const fields = fieldsWith(replaces ? {} : { "If-None-Match": "*" });
    Object.entries(fields).forEach(([name, value]) => request.setRequestHeader(name, value));
    request.upload.addEventListener("progress", (event) => progressed(event.loaded));
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) {
        resolve();
      } else {
        const sentence = sentenceIn(request.responseText, request.status);
        reject(new Refusal(request.status, sentence));
      }
    });
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(signal.reason));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}
