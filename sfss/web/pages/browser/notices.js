// What stands in place of a list: that there is nothing, or why there is none.

import { Place } from "./address.js";
import { byId, make, named } from "./elements.js";

export function showNotice(kind, ...content) {
  const notice = byId("notice");
  notice.className = `notice ${kind}`;
  notice.replaceChildren(...content);
  notice.hidden = false;
}

export function hideNotice() {
  byId("notice").hidden = true;
}

export function showFailure(error, again) {
  if (error.status === 501) {
    const heading = "These stores cannot list what they hold.";
    showByPath(heading, " You can upload files, and open those whose paths you know.", error);
    return;
  }
  if (error.status === 403) {
    const heading = "You may not see what is in this folder.";
    showByPath(heading, " There may be others, and files, that are open to you.", error);
    return;
  }
  const retry = make("button", { type: "button", on: { click: again } }, "Try again");
  showNotice("bad", make("p", {}, error.message), retry);
}

// What is not listed can still be asked for by its path.
function showByPath(heading, rest, { message }) {
  const field = make("input", { type: "text", id: "path", required: true, placeholder: "folder/name.txt or folder/" });
  field.spellcheck = false;
  const submit = (event) => {
    event.preventDefault();
    location.hash = new Place(field.value.replace(/^\/+/, "")).hash;
  };
  const label = make("label", { htmlFor: "path" }, "Open a file, or a folder, by its path");
  const form = make("form", { className: "by-path", on: { submit } }, label, field, make("button", {}, "Open"));
  showNotice(
    "warn",
    make("p", {}, make("strong", {}, heading), rest),
    form,
    make("p", { className: "small" }, message),
  );
}

export function showMissingFace() {
  const face = make("code", {}, "native");
  showNotice("bad", "This page shows files by the face ", face, ", which is not shown on this address. Add it to ", make("code", {}, "server.faces"), " or to the listener's ", make("code", {}, "faces"), ".");
}

export function showEmpty(place) {
  const empty = byId("empty");
  const words = place.begins
    ? [make("h2", {}, "Nothing begins with “", named(place.begins), "” here"), make("p", { className: "soft" }, "Only the beginnings of names in this folder are compared.")]
    : [make("h2", {}, "Nothing here yet"), make("p", { className: "soft" }, "Drop files or folders anywhere on this page, or use the button.")];
  empty.replaceChildren(...words);
  empty.hidden = false;
}

export function hideEmpty() {
  byId("empty").hidden = true;
}
