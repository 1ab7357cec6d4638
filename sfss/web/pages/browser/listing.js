// What is in the place that is shown: pages of it as they are asked for, in an order.

import { list } from "./service.js";

export const PAGE = 200;
const LIMIT = 1000;
const DAMAGED = "This file is damaged on the server.";

// A file {path, size, type, modified}, or {path, error} where it is damaged, or a folder {path} whose
// path ends with "/".
export const isFolder = (thing) => thing.path.endsWith("/");

const ORDERS = {
  name: (one, other) => compare(one.path, other.path),
  size: (one, other) => compare(one.size ?? -1, other.size ?? -1),
  modified: (one, other) => compare(one.modified ?? "", other.modified ?? ""),
};

function compare(one, other) {
  return one < other ? -1 : Number(one > other);
}

export class Listing {
  constructor(prefix) {
    this.prefix = prefix;
    this.things = [];
    this.next = "";
    this.loading = new AbortController();
  }

  get isWhole() {
    return this.next === null;
  }

  // Get the next page, or `number` things; raises as `list`, and an AbortError after `leave`.
  async more(number = PAGE) {
    let wanted = number;
    while (wanted > 0 && this.next !== null) {
      const { signal } = this.loading;
      const limit = Math.min(wanted, LIMIT);
      const page = await list(this.prefix, { after: this.next, limit, signal });
      this.things.push(...page.folders.map((path) => ({ path })), ...page.files);
      this.things.push(...page.damaged.map((path) => ({ path, error: new Error(DAMAGED) })));
      this.next = page.next;
      wanted -= limit;
    }
  }

  leave() {
    this.loading.abort();
  }

  // The things, folders first.
  sorted({ by, ascending }) {
    const order = ORDERS[by];
    const sign = ascending ? 1 : -1;
    return [...this.things].sort(
      (one, other) =>
        isFolder(other) - isFolder(one) || sign * order(one, other) || compare(one.path, other.path),
    );
  }
}
