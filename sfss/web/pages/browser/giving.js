// What leaves the page: links, and files that are downloaded.

import { nameOf, urlOf } from "./address.js";
import { showLink } from "./dialogs.js";
import { make, say } from "./elements.js";
import { body, token } from "./service.js";

export async function copyLink(path) {
  const url = urlOf(path);
  try {
    await navigator.clipboard.writeText(url);
  } catch {
    // Not over plain http:// from another machine, and not everywhere allowed.
    await showLink(url);
    return;
  }
  say("Link copied");
}

export async function download(path) {
  if (!token()) {
    save(urlOf(path), nameOf(path));
    return;
  }
  try {
    const url = URL.createObjectURL(await body(path));
    save(url, nameOf(path));
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    say(`Not downloaded: ${error.message}`);
  }
}

function save(url, name) {
  make("a", { href: url, download: name }).click();
}
