// The list of uploads: a bar for each that is under way, and what became of the others.

import { byId, iconButton, make, named, picture } from "./elements.js";
import { counted } from "./figures.js";
import { ASKING, CANCELLED, DONE, FAILED, SENDING, SKIPPED } from "./queue.js";
import { sizeOf } from "./sizes.js";

const SHOWN_LIMIT = 100;
const SUMMARY_MS = 100;
const WORDS = {
  [ASKING]: "There is a file of this name",
  [DONE]: "Uploaded",
  [SKIPPED]: "Left as it was",
  [CANCELLED]: "Cancelled",
};

export class Tray {
  // `closed` is called when the person has closed it.
  constructor(queue, closed) {
    this.queue = queue;
    this.rows = new Map();
    this.summary = null;
    this.list = byId("tray-list");
    byId("tray-cancel").addEventListener("click", () => queue.cancelAll());
    byId("tray-close").addEventListener("click", () => {
      byId("tray").hidden = true;
      this.queue.clear();
      this.rows.clear();
      this.list.replaceChildren();
      closed();
    });
  }

  show(upload) {
    byId("tray").hidden = false;
    this.row(upload).show();
    this.dropOldest();
    this.summary ??= setTimeout(() => {
      this.summary = null;
      this.summarise();
    }, SUMMARY_MS);
  }

  row(upload) {
    if (!this.rows.has(upload)) {
      const row = new Row(upload, this.queue);
      this.rows.set(upload, row);
      this.list.prepend(row.element);
    }
    return this.rows.get(upload);
  }

  // Thousands of lines would help nobody: of those that are done, the latest are kept.
  dropOldest() {
    if (this.rows.size <= SHOWN_LIMIT) {
      return;
    }
    const done = [...this.rows].find(([upload]) => upload.state === DONE || upload.state === SKIPPED);
    if (done) {
      this.rows.delete(done[0]);
      done[1].element.remove();
    }
  }

  summarise() {
    const { uploads, isIdle } = this.queue;
    const total = uploads.reduce((sum, each) => sum + each.size, 0);
    const sent = uploads.reduce((sum, each) => sum + (each.hasEnded ? each.size : each.sent), 0);
    byId("tray-progress").value = total ? Math.min(sent / total, 1) : Number(isIdle);
    byId("tray-progress").hidden = isIdle;
    byId("tray-cancel").hidden = isIdle;
    byId("tray-close").hidden = !isIdle;
    const done = this.queue.count(DONE);
    byId("tray-title").textContent = isIdle
      ? summaryOf(this.queue)
      : `Uploading ${(done + 1).toLocaleString("en")} of ${uploads.length.toLocaleString("en")}`;
  }
}

export function summaryOf(queue) {
  const done = queue.count(DONE);
  const failed = queue.count(FAILED);
  const parts = [];
  if (done || !failed) {
    parts.push(done ? `${counted(done, "file")} uploaded` : "Nothing uploaded");
  }
  if (failed) {
    parts.push(`${counted(failed, "file")} failed`);
  }
  return parts.join(", ");
}

class Row {
  constructor(upload, queue) {
    this.upload = upload;
    this.progress = make("progress", { max: 1 });
    this.progress.setAttribute("aria-label", upload.name);
    this.words = make("span", { className: "words" });
    this.mark = make("span", { className: "mark" });
    this.cancel = iconButton("close", `Cancel ${upload.name}`, () => queue.cancel(upload));
    this.retry = iconButton("again", `Try again: ${upload.name}`, () => queue.retry(upload));
    this.element = make(
      "li",
      {},
      this.mark,
      make("div", { className: "what", title: upload.path }, named(upload.name), this.progress, this.words),
      this.retry,
      this.cancel,
    );
  }

  show() {
    const { state, sent, size, sentence } = this.upload;
    this.element.dataset.state = state;
    this.mark.replaceChildren(picture(state === DONE ? "done" : "up"));
    this.progress.hidden = state !== SENDING;
    this.progress.value = size ? sent / size : 0;
    this.words.textContent = sentence || WORDS[state] || wordsOf(sent, size);
    this.retry.hidden = ![FAILED, CANCELLED].includes(state) || this.upload.file === null;
    this.cancel.hidden = this.upload.hasEnded;
  }
}

function wordsOf(sent, size) {
  return sent && sent >= size ? `${sizeOf(size)}, being stored` : `${sizeOf(sent)} of ${sizeOf(size)}`;
}
