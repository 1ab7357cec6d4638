// The table of files and folders, and how keys move in it.

import { Place, urlOfState } from "./address.js";
import { byId, iconButton, make, named, picture } from "./elements.js";
import { kindOf, momentOf, timeOf } from "./figures.js";
import { isFolder } from "./listing.js";
import { token } from "./service.js";
import { sizeOf } from "./sizes.js";

const THUMBNAIL_LIMIT = 256 * 1024;

export class Table {
  // `acts`: {copy, download, remove, sort}, called with a thing, or the column.
  constructor(acts) {
    this.acts = acts;
    this.order = { by: "name", ascending: true };
    this.body = byId("things");
    this.made = new Map(); // rows, by all that they show
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("focusin", (event) => this.roam(event.target.closest("tr")));
    for (const head of document.querySelectorAll("th[data-by]")) {
      head.firstElementChild.addEventListener("click", () => this.sortBy(head.dataset.by));
    }
  }

  sortBy(by) {
    const ascending = this.order.by === by ? !this.order.ascending : by === "name";
    this.order = { by, ascending };
    for (const head of document.querySelectorAll("th[data-by]")) {
      if (head.dataset.by === by) {
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      } else {
        head.removeAttribute("aria-sort");
      }
    }
    this.acts.sort();
  }

  // Show `things`, whose names are what stands behind `folder`. The focus stays with what has it.
  show(things, folder) {
    const made = new Map();
    const rows = things.map((thing) => {
      const key = JSON.stringify([thing, folder, token() !== null]);
      made.set(key, this.made.get(key) ?? this.row(thing, folder));
      return made.get(key);
    });
    this.made = made;
    this.place(rows);
    if (!this.body.querySelector("a[tabindex='0']")) {
      this.roam(this.body.firstElementChild);
    }
  }

  // Have `rows` in the table; those at its beginning that are there already stay as they are.
  place(rows) {
    const present = [...this.body.rows];
    if (present.every((each, at) => each === rows[at])) {
      this.body.append(...rows.slice(present.length));
      return;
    }
    const focused = this.focusedPath();
    this.body.replaceChildren(...rows);
    if (focused !== null) {
      this.focus(focused);
    }
  }

  focusedPath() {
    return this.body.contains(document.activeElement)
      ? document.activeElement.closest("tr").dataset.path
      : null;
  }

  // Focus the thing at `path`, or else the folder it is in, or what stands in its place now.
  focus(path) {
    const rows = [...this.body.rows];
    const row =
      rows.find(({ dataset }) => dataset.path === path) ??
      rows.find(({ dataset }) => isFolder(dataset) && path.startsWith(dataset.path)) ??
      rows.find(({ dataset }) => dataset.path > path);
    (row ?? rows.at(-1))?.querySelector("a").focus();
  }

  row(thing, folder) {
    const name = thing.path.slice(folder.length);
    const place = isFolder(thing) ? new Place(thing.path) : new Place(folder, "", thing.path);
    const link = make("a", { href: place.hash, tabIndex: -1 }, this.icon(thing), named(name));
    const cells = [
      make("td", { className: "title" }, link),
      make("td", { className: "size" }, ...sizeCell(thing)),
      make("td", { className: "modified" }, ...timeCell(thing)),
      make("td", { className: "actions" }, ...this.actions(thing, name)),
    ];
    const row = make("tr", {}, ...cells);
    row.dataset.path = thing.path;
    return row;
  }

  icon(thing) {
    if (isFolder(thing)) {
      return picture("folder");
    }
    if (thing.error) {
      return picture("file");
    }
    const kind = kindOf(thing.type);
    const icon = picture({ unknown: "file" }[kind] ?? kind);
    // With a token, an image would have to be fetched by hand: not for a picture of this size.
    if (kind !== "image" || token() || thing.size > THUMBNAIL_LIMIT || !thing.size) {
      return icon;
    }
    const shown = make("img", { loading: "lazy", decoding: "async", alt: "", className: "thumbnail", draggable: false });
    shown.addEventListener("error", () => shown.replaceWith(icon));
    shown.src = urlOfState(thing);
    return shown;
  }

  actions(thing, name) {
    const { acts } = this;
    const remove = iconButton("delete", `Delete ${name}`, () => acts.remove(thing));
    const buttons = isFolder(thing) || thing.error
      ? [remove]
      : [
          iconButton("link", `Copy link to ${name}`, () => acts.copy(thing)),
          iconButton("download", `Download ${name}`, () => acts.download(thing)),
          remove,
        ];
    buttons.forEach((each) => (each.tabIndex = -1));
    return buttons;
  }

  // One row at a time is on the way of the tabulator.
  roam(row) {
    if (!row) {
      return;
    }
    for (const each of this.body.querySelectorAll("[tabindex='0']")) {
      each.tabIndex = -1;
    }
    for (const each of row.querySelectorAll("a, button")) {
      each.tabIndex = 0;
    }
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) {
      return;
    }
    const row = event.target.closest("tr");
    const rows = this.body.rows;
    const at = row.sectionRowIndex;
    const to = {
      ArrowDown: rows[Math.min(at + 1, rows.length - 1)],
      ArrowUp: rows[Math.max(at - 1, 0)],
      Home: rows[0],
      End: rows[rows.length - 1],
      PageDown: rows[Math.min(at + 10, rows.length - 1)],
      PageUp: rows[Math.max(at - 10, 0)],
    }[event.key];
    if (to) {
      to.querySelector("a").focus();
    } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      this.sideways(row, event.target, event.key === "ArrowRight" ? 1 : -1);
    } else if (event.key === "Delete") {
      this.acts.remove({ path: row.dataset.path });
    } else {
      return;
    }
    event.preventDefault();
  }

  sideways(row, from, step) {
    const stops = [...row.querySelectorAll("a, button")];
    stops[stops.indexOf(from) + step]?.focus();
  }
}

function sizeCell(thing) {
  if (thing.error) {
    return [make("span", { title: thing.error.message }, "damaged")];
  }
  return isFolder(thing) ? [] : [make("span", { title: `${thing.size} bytes` }, sizeOf(thing.size))];
}

function timeCell(thing) {
  if (!thing.modified) {
    return [];
  }
  const { modified } = thing;
  return [make("time", { dateTime: modified, title: momentOf(modified) }, timeOf(modified))];
}
