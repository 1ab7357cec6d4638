// What the page asks of sfss: the addresses that any program uses.
//
// Every refusal is thrown as `Refusal`, with the sentence of the server; that nobody answers is one,
// too. Where a token is wanted, the person is asked for it, once for all that wait.

import { urlOf } from "./address.js";

const TOKEN = "sfss-token";

export class Refusal extends Error {
  // `status` is 0 where there was no answer.
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

export const NO_ANSWER = "The server does not answer.";

export function unreachable() {
  return new Refusal(0, NO_ANSWER);
}

// -- tokens

let askForToken = async () => null;
let asking = null;
let changed = () => {};

// Have `ask` called when a token is wanted: it returns one, or null; `note` when there is another.
export function whenTokenIsWanted(ask, note) {
  askForToken = ask;
  changed = note;
}

export function token() {
  return sessionStorage.getItem(TOKEN);
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
  changed();
}

// Return whether there is another token than `tried` now.
export async function anotherToken(tried, sentence) {
  if (token() !== tried) {
    return true;
  }
  asking ??= askForToken(sentence, tried !== null).finally(() => {
    asking = null;
  });
  const given = await asking;
  if (given) {
    sessionStorage.setItem(TOKEN, given);
    changed();
  }
  return Boolean(given);
}

export function fieldsWith(fields = {}) {
  const given = token();
  return {
    Accept: "application/json",
    ...fields,
    ...(given ? { Authorization: `Bearer ${given}` } : {}),
  };
}

// -- requests

export const PAUSES = 4;
const LONGEST_PAUSE_S = 30;

// Whether a status says that the same request may do later.
export function isBusy(status) {
  return status === 429 || status === 503;
}

// Wait for as long as the server has said (`Retry-After`, in seconds), within reason.
export function pause(told, signal) {
  const seconds = /^\d+$/.test(told ?? "") ? Math.min(Number(told), LONGEST_PAUSE_S) : 1;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

async function ask(address, options = {}) {
  for (let pauses = 0; ; ) {
    const tried = token();
    const answer = await answered(address, { ...options, headers: fieldsWith(options.headers) });
    if (answer.ok) {
      return answer;
    }
    const sentence = sentenceIn(await answer.text().catch(() => ""), answer.status);
    if (isBusy(answer.status) && pauses < PAUSES) {
      pauses += 1;
      await pause(answer.headers.get("Retry-After"), options.signal);
      continue;
    }
    if (answer.status !== 401 || !(await anotherToken(tried, sentence))) {
      throw new Refusal(answer.status, sentence);
    }
  }
}

async function answered(address, options) {
  try {
    return await fetch(address, { cache: "no-store", ...options });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

export function sentenceIn(text, status) {
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string") {
      return error;
    }
  } catch {
    // a proxy in between may say anything
  }
  return status === 404 ? "There is no such file." : `The server answers with status ${status}.`;
}

// What can be counted on here: {max_file_size, has_files, has_status, has_api}.
export async function settings() {
  return (await ask("settings.json")).json();
}

// A page of what lies behind `prefix`: {files, folders, damaged, next}, folder by folder; `deep`: all
// files. `damaged` are the paths of files of which the server knows no more.
export async function list(prefix, { after = "", limit = 200, deep = false, signal } = {}) {
  const query = new URLSearchParams({ prefix, limit });
  if (!deep) {
    query.set("delimiter", "/");
  }
  if (after) {
    query.set("after", after);
  }
  const answer = await ask(`../files?${query}`, { signal });
  const page = await whole(answer, (each) => each.json());
  return { folders: [], damaged: [], ...page };
}

// What is known of one file: {path, size, type, etag, modified}.
export async function describe(path) {
  const { headers } = await ask(urlOf(path), { method: "HEAD" });
  const modified = headers.get("Last-Modified");
  return {
    path,
    size: Number(headers.get("Content-Length")),
    type: headers.get("Content-Type") ?? "",
    etag: headers.get("ETag"),
    modified: modified && new Date(modified).toISOString(),
  };
}

// A file as a blob; with `end`, only its first bytes.
export async function body(path, { end = null, signal } = {}) {
  const headers = end === null ? {} : { Range: `bytes=0-${end - 1}` };
  const answer = await ask(urlOf(path), { headers, signal });
  return whole(answer, (each) => each.blob());
}

async function whole(answer, read) {
  try {
    return await read(answer);
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

export async function remove(path, { signal } = {}) {
  await ask(urlOf(path), { method: "DELETE", signal });
}
