// Uploads: which are under way, which wait, and what became of the others.

import { send } from "./sending.js";

const AT_ONCE = 4;

export const WAITING = "waiting";
export const SENDING = "sending";
export const ASKING = "asking"; // there is a file of that name
export const DONE = "done";
export const SKIPPED = "skipped";
export const FAILED = "failed";
export const CANCELLED = "cancelled";

// The states that are final, unless the person tries again.
const ENDED = new Set([DONE, SKIPPED, FAILED, CANCELLED]);

export class Upload {
  // `name` is the path below the folder that it goes to.
  constructor(file, folder, name) {
    this.file = file;
    this.name = name;
    this.path = folder + name;
    this.size = file?.size ?? 0;
    this.restart();
  }

  restart() {
    this.state = WAITING;
    this.sent = 0;
    this.sentence = "";
    this.cancelling = new AbortController();
  }

  get hasEnded() {
    return ENDED.has(this.state);
  }
}

// `limit()` gives the bytes that a file may have. `ask(upload)` is called where there is a file of
// that name: it answers {replaces, forAll}. `changed(upload)` is called after every step.
export class Queue {
  constructor({ limit, ask, changed }) {
    this.limit = limit;
    this.ask = ask;
    this.changed = changed;
    this.uploads = [];
    this.waiting = [];
    this.underWay = 0;
    this.answer = null; // what was answered for all the others
    this.question = Promise.resolve(); // one at a time
    this.counts = new Map(); // of uploads, by state: there may be thousands
  }

  get left() {
    return [WAITING, SENDING, ASKING].reduce((sum, state) => sum + this.count(state), 0);
  }

  get isIdle() {
    return this.left === 0;
  }

  count(state) {
    return this.counts.get(state) ?? 0;
  }

  change(state, number) {
    this.counts.set(state, this.count(state) + number);
  }

  // Add what `dropped` and `filesChosen` return, to go into `folder`.
  add(chosen, folder) {
    if (this.isIdle) {
      this.answer = null;
    }
    const added = chosen.map(({ file, path }) => new Upload(file, folder, path));
    this.uploads = this.uploads.concat(added);
    this.waiting = this.waiting.concat(added);
    this.change(WAITING, added.length);
    this.go();
  }

  retry(upload) {
    this.restart(upload);
    this.waiting.push(upload);
    this.go();
  }

  restart(upload) {
    this.change(upload.state, -1);
    upload.restart();
    this.change(WAITING, 1);
  }

  cancel(upload) {
    if (upload.hasEnded) {
      return;
    }
    this.waiting = this.waiting.filter((each) => each !== upload);
    this.step(upload, CANCELLED);
    upload.cancelling.abort();
  }

  cancelAll() {
    this.uploads.forEach((each) => this.cancel(each));
  }

  clear() {
    this.uploads = this.uploads.filter((each) => !each.hasEnded);
    ENDED.forEach((state) => this.counts.set(state, 0));
  }

  step(upload, state, sentence = "") {
    if (upload.state === CANCELLED) {
      return; // what comes back of it after that says nothing
    }
    this.change(upload.state, -1);
    this.change(state, 1);
    upload.state = state;
    upload.sentence = sentence;
    this.changed(upload);
  }

  go() {
    while (this.underWay < AT_ONCE && this.waiting.length) {
      const upload = this.waiting.shift();
      this.underWay += 1;
      this.take(upload).finally(() => {
        this.underWay -= 1;
        this.go();
      });
    }
  }

  async take(upload) {
    if (upload.file === null) {
      this.step(upload, FAILED, "This file cannot be read.");
      return;
    }
    if (upload.size > this.limit()) {
      const sentence = `A file may have ${this.limit()} bytes; this has ${upload.size}.`;
      this.step(upload, FAILED, sentence);
      return;
    }
    this.step(upload, SENDING);
    try {
      await this.bring(upload, upload.replaces ?? this.answer === true);
      this.step(upload, DONE);
    } catch (error) {
      if (error.status === 412) {
        this.settle(upload); // not waited for: others may go meanwhile
      } else if (upload.state !== CANCELLED) {
        this.step(upload, FAILED, error.message);
      }
    }
  }

  bring(upload, replaces) {
    const progressed = (sent) => {
      upload.sent = sent;
      this.changed(upload);
    };
    const { signal } = upload.cancelling;
    return send(upload.file, upload.path, { replaces, progressed, signal });
  }

  // Ask what is to be done about a file of that name.
  settle(upload) {
    this.step(upload, ASKING);
    this.question = this.question.then(async () => {
      if (upload.state !== ASKING) {
        return;
      }
      let replaces = this.answer;
      if (replaces === null) {
        const answer = await this.ask(upload, this.left > 1);
        replaces = answer.replaces;
        this.answer = answer.forAll ? replaces : null;
      }
      if (upload.state !== ASKING) {
        return;
      }
      if (!replaces) {
        this.step(upload, SKIPPED);
        return;
      }
      this.restart(upload);
      upload.replaces = true;
      this.waiting.unshift(upload);
      this.go();
    });
  }
}
