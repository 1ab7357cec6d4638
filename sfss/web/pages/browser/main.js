// The page: where one is (the hash of the URL), and what is shown of it.

import { nameOf, Place, placeOf } from "./address.js";
import { showCrumbs } from "./crumbs.js";
import { askForFolder, askForToken } from "./dialogs.js";
import { byId } from "./elements.js";
import { counted } from "./figures.js";
import { copyLink, download } from "./giving.js";
import { isFolder, Listing, PAGE } from "./listing.js";
import { hideEmpty, hideNotice, showEmpty, showFailure, showMissingFace } from "./notices.js";
import { Preview } from "./preview.js";
import { removeFile, removeFolder } from "./removing.js";
import { describe, forgetToken, settings, token, whenTokenIsWanted } from "./service.js";
import { sizeOf } from "./sizes.js";
import { Table } from "./table.js";
import { startUploading } from "./uploading.js";

const TYPING_MS = 150;

class Page {
  constructor() {
    this.place = null; // the folder that is listed
    this.listing = null;
    this.settings = { max_file_size: Infinity };
    this.wasListHere = false; // before the file that is shown
    const file = { copy: ({ path }) => copyLink(path), download: ({ path }) => download(path) };
    const remove = (thing) => this.remove(thing);
    this.table = new Table({ ...file, remove, sort: () => this.showThings() });
    this.preview = new Preview({
      ...file,
      remove,
      leave: () => this.leaveFile(),
      step: (thing, step) => this.step(thing, step),
    });
    this.startMore();
    this.startSearch();
    byId("new-folder").addEventListener("click", () => this.makeFolder());
    startUploading({
      limit: () => this.settings.max_file_size,
      folder: () => placeOf(location.hash).folder,
      stored: () => this.refresh(),
    });
    addEventListener("hashchange", () => this.go());
    addEventListener("keydown", (event) => this.key(event));
  }

  async start() {
    whenTokenIsWanted(askForToken, () => {
      byId("sign-out").hidden = !token();
    });
    byId("sign-out").hidden = !token();
    byId("sign-out").addEventListener("click", () => {
      forgetToken();
      this.showNothing();
      this.load();
    });
    showCrumbs(placeOf(location.hash).folder);
    try {
      this.settings = await settings();
    } catch (error) {
      showFailure(error, () => location.reload());
      return;
    }
    byId("limit").textContent = `Files may have up to ${sizeOf(this.settings.max_file_size)}`;
    byId("to-status").hidden = !this.settings.has_status;
    byId("to-api").hidden = !this.settings.has_api;
    if (this.settings.has_files) {
      this.go();
    } else {
      showMissingFace();
    }
  }

  // -- where one is

  // Show what the URL says.
  go() {
    const place = placeOf(location.hash);
    const name = nameOf(place.file ?? place.folder);
    byId("title").textContent = nameOf(place.folder) || "Files";
    document.title = name ? `${name} · Files` : "Files";
    const isListed = this.place?.folder === place.folder;
    if (!isListed || (place.file === null && this.place.begins !== place.begins)) {
      this.place = place;
      this.load();
    }
    this.wasListHere = isListed && (this.wasListHere || place.file === null);
    if (place.file === null) {
      this.wasListHere = true;
      this.preview.close();
    } else {
      this.open(place.file);
    }
  }

  // Go there without another step back.
  replace(place) {
    history.replaceState(null, "", place.hash);
    this.go();
  }

  async load() {
    this.listing?.leave();
    const listing = new Listing(this.place.prefix);
    this.listing = listing;
    showCrumbs(this.place.folder);
    const field = byId("search-text");
    if (document.activeElement !== field) {
      field.value = this.place.begins;
    }
    await this.get(() => listing.more());
  }

  // Show the same again, as it is now.
  async refresh() {
    const shown = this.listing;
    if (shown === null) {
      return;
    }
    const listing = new Listing(shown.prefix);
    shown.leave();
    this.listing = listing;
    await this.get(() => listing.more(Math.max(shown.things.length, PAGE)));
  }

  async get(more) {
    const { listing } = this;
    const busy = setTimeout(() => byId("shelf").setAttribute("aria-busy", "true"), 250);
    try {
      await more();
      if (listing === this.listing) {
        hideNotice();
        byId("search-field").hidden = false;
        this.showThings();
      }
    } catch (error) {
      if (listing === this.listing && error.name !== "AbortError") {
        this.showNothing();
        byId("search-field").hidden = error.status === 501;
        showFailure(error, () => this.load());
      }
    } finally {
      clearTimeout(busy);
      byId("shelf").removeAttribute("aria-busy");
    }
  }

  // -- the list

  get things() {
    return this.listing.sorted(this.table.order);
  }

  showThings() {
    const { things, listing } = this;
    this.table.show(things, this.place.folder);
    byId("shelf").hidden = !things.length;
    byId("more").hidden = listing.isWhole;
    byId("count").textContent = countOf(things, listing.isWhole);
    if (things.length) {
      hideEmpty();
    } else {
      showEmpty(this.place);
    }
  }

  showNothing() {
    byId("shelf").hidden = true;
    byId("more").hidden = true;
    byId("count").textContent = "";
    hideEmpty();
  }

  startMore() {
    const more = byId("more");
    const next = async () => {
      if (more.hidden || more.disabled) {
        return;
      }
      more.disabled = true;
      await this.get(() => this.listing.more());
      more.disabled = false;
    };
    more.addEventListener("click", next);
    new IntersectionObserver(([entry]) => entry.isIntersecting && next(), {
      rootMargin: "600px",
    }).observe(more);
  }

  startSearch() {
    const field = byId("search-text");
    let typing = 0;
    field.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.replace(new Place(this.place.folder, field.value)), TYPING_MS);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "Enter") {
        event.preventDefault();
        byId("things").querySelector("a")?.focus();
      }
    });
  }

  key(event) {
    const isFree = !event.target.closest("input, dialog") && !event.ctrlKey && !event.metaKey;
    if (!isFree || this.place === null) {
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      byId("search-text").focus();
    } else if (event.key === "Backspace" || (event.altKey && event.key === "ArrowUp")) {
      event.preventDefault();
      // Not this.place: of two quick presses the second comes before the first has been shown.
      const above = placeOf(location.hash).folder.split("/").slice(0, -2).join("/");
      location.hash = new Place(above && `${above}/`).hash;
    } else if (event.key === "Escape" && this.place.begins) {
      this.replace(new Place(this.place.folder));
    }
  }

  async makeFolder() {
    const { folder } = placeOf(location.hash);
    const name = await askForFolder();
    if (name !== null) {
      location.hash = new Place(`${folder}${name}/`).hash;
    }
  }

  // -- files

  async open(path) {
    let file = this.listing?.things.find((each) => each.path === path);
    if (!file) {
      // Not on the pages that are here, or they are still to come.
      file = await describe(path).catch((error) => ({ path, error }));
    }
    if (placeOf(location.hash).file === path) {
      await this.preview.show(file, { before: !this.neighbour(file, -1), behind: !this.neighbour(file, 1) });
    }
  }

  neighbour(file, step) {
    const files = this.listing ? this.things.filter((each) => !isFolder(each)) : [];
    const at = files.findIndex((each) => each.path === file.path);
    return at < 0 ? undefined : files[at + step];
  }

  step(file, step) {
    const other = this.neighbour(file, step);
    if (other) {
      this.replace(new Place(this.place.folder, "", other.path));
    }
  }

  // The preview was closed: the URL is to say so.
  leaveFile() {
    const { file } = placeOf(location.hash);
    if (file === null) {
      return;
    }
    if (this.wasListHere) {
      history.back();
    } else {
      this.replace(new Place(this.place.folder, this.place.begins));
    }
  }

  async remove({ path }) {
    const removing = isFolder({ path }) ? removeFolder : removeFile;
    if (await removing(path)) {
      this.preview.close();
      await this.refresh();
      this.table.focus(path);
    }
  }
}

function countOf(things, isWhole) {
  if (!things.length) {
    return "";
  }
  const folders = things.filter(isFolder).length;
  const files = things.length - folders;
  const parts = [folders && counted(folders, "folder"), files && counted(files, "file")];
  const words = parts.filter(Boolean).join(", ");
  return isWhole ? words : `The first ${words}`;
}

new Page().start();
