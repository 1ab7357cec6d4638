// A file, shown: image, sound, film or text; never as a page that could run anything.

import { nameOf, urlOfState } from "./address.js";
import { byId, make, named } from "./elements.js";
import { kindOf, momentOf } from "./figures.js";
import { body, token } from "./service.js";
import { sizeOf } from "./sizes.js";

const TEXT_LIMIT = 64 * 1024;
const WHOLE_LIMIT = 64 * 1024 * 1024;

export class Preview {
  // `acts`: {copy, download, remove, leave, step}; `step(file, 1 or -1)` goes to a neighbour.
  constructor(acts) {
    this.dialog = byId("preview");
    this.file = null;
    this.loading = new AbortController();
    this.url = null;
    const act = (id, does) => byId(id).addEventListener("click", () => does(this.file));
    act("preview-link", acts.copy);
    act("preview-download", acts.download);
    act("preview-delete", acts.remove);
    act("preview-back", (file) => acts.step(file, -1));
    act("preview-on", (file) => acts.step(file, 1));
    act("preview-close", () => this.dialog.close());
    this.dialog.addEventListener("close", () => {
      this.empty();
      acts.leave();
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) {
        this.dialog.close(); // beside it
      }
    });
    this.dialog.addEventListener("keydown", (event) => this.key(event, acts));
  }

  key(event, acts) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && !event.target.closest("audio, video, pre")) {
      event.preventDefault();
      acts.step(this.file, step);
    } else if (event.key === "Delete") {
      acts.remove(this.file);
    }
  }

  get isOpen() {
    return this.dialog.open;
  }

  // Show `file`: {path, size, type, modified}, or {path, error} where that could not be learned.
  // `ends`: there is nothing {before, behind} it.
  async show(file, ends) {
    this.empty();
    this.file = file;
    byId("preview-name").replaceChildren(named(nameOf(file.path)));
    byId("preview-facts").textContent = file.error ? "" : factsOf(file);
    for (const id of ["preview-download", "preview-delete"]) {
      byId(id).disabled = Boolean(file.error);
    }
    byId("preview-back").disabled = ends.before;
    byId("preview-on").disabled = ends.behind;
    if (!this.isOpen) {
      this.dialog.showModal();
      byId("preview-close").focus();
    }
    const { signal } = this.loading;
    try {
      const shown = await this.shown(file, signal);
      if (!signal.aborted) {
        byId("preview-body").replaceChildren(shown);
      }
    } catch (error) {
      if (!signal.aborted) {
        byId("preview-body").replaceChildren(sentence(error.message));
      }
    }
  }

  close() {
    if (this.isOpen) {
      this.dialog.close();
    }
  }

  empty() {
    this.loading.abort();
    this.loading = new AbortController();
    byId("preview-body").replaceChildren();
    if (this.url) {
      URL.revokeObjectURL(this.url);
      this.url = null;
    }
  }

  async shown(file, signal) {
    if (file.error) {
      throw file.error;
    }
    if (file.size === 0) {
      return sentence("The file is empty.");
    }
    const kind = kindOf(file.type);
    if (kind === "file") {
      return sentence("There is no preview of files of this kind.");
    }
    if (kind === "text" || kind === "unknown") {
      return textOf(file, signal);
    }
    if (file.size > WHOLE_LIMIT) {
      return sentence("The file is too large for a preview: download it.");
    }
    const source = kind === "image" && !token() ? urlOfState(file) : await this.fetched(file, signal);
    return kind === "image" ? imageOf(file, source) : playerOf(kind, source);
  }

  async fetched(file, signal) {
    const url = URL.createObjectURL(await body(file.path, { signal }));
    if (signal.aborted) {
      URL.revokeObjectURL(url);
      signal.throwIfAborted();
    }
    this.url = url;
    return url;
  }
}

function factsOf({ size, type, modified }) {
  const facts = [sizeOf(size), type, modified && momentOf(modified)];
  return facts.filter(Boolean).join(" · ");
}

function sentence(text) {
  return make("p", { className: "sentence soft" }, text);
}

function imageOf(file, source) {
  const image = make("img", { alt: nameOf(file.path), src: source });
  image.addEventListener("error", () => image.replaceWith(sentence("This image cannot be shown.")));
  return image;
}

function playerOf(kind, source) {
  const player = make(kind, { controls: true, src: source });
  player.addEventListener("error", () => player.replaceWith(sentence("This cannot be played here.")));
  return player;
}

async function textOf(file, signal) {
  const part = await body(file.path, { end: TEXT_LIMIT, signal });
  const bytes = new Uint8Array(await part.slice(0, TEXT_LIMIT).arrayBuffer());
  if (bytes.includes(0)) {
    return sentence("This is no text: there is no preview of it.");
  }
  // What is cut off in the middle of a character is left out.
  const text = new TextDecoder().decode(bytes, { stream: file.size > TEXT_LIMIT });
  const pre = make("pre", { tabIndex: 0 }, text);
  pre.setAttribute("aria-label", `Text of ${nameOf(file.path)}`);
  if (file.size <= TEXT_LIMIT) {
    return pre;
  }
  const note = make("p", { className: "note soft" }, `The first ${sizeOf(TEXT_LIMIT)} of ${sizeOf(file.size)}`);
  return make("div", { className: "text" }, note, pre);
}
