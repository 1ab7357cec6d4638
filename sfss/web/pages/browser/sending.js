// One file on its way to the server.

import { urlOf } from "./address.js";
import { anotherToken, fieldsWith, isBusy, pause, PAUSES, token } from "./service.js";
import { Refusal, sentenceIn, unreachable } from "./service.js";

// Send `file` to `path`; `progressed` is called with the bytes that have gone out. Unless `replaces`,
// what is there stays: a `Refusal` with status 412. `signal` cancels: an AbortError.
export async function send(file, path, { replaces, progressed, signal }) {
  for (let pauses = 0; ; ) {
    const tried = token();
    try {
      await sendOnce(file, path, { replaces, progressed, signal });
      return;
    } catch (error) {
      if (isBusy(error.status) && pauses < PAUSES) {
        pauses += 1;
        await pause(error.retryAfter, signal);
        continue;
      }
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
        const refusal = new Refusal(
          request.status,
          sentenceIn(request.responseText, request.status),
        );
        refusal.retryAfter = request.getResponseHeader("Retry-After");
        reject(refusal);
      }
    });
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(signal.reason));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}
