// Where one is: the part of the URL behind "#", so that back, forward, reload and bookmarks work.
//
//   #photos/2026/            a folder; the topmost is empty
//   #photos/2026/?be         what is in it that begins with "be"
//   #photos/2026/beach.jpg   a file in it, shown
//
// Whatever a name has in it is percent-encoded, so "?" and "/" mean only the above.

export class Place {
  constructor(folder, begins = "", file = null) {
    this.folder = folder;
    this.begins = begins;
    this.file = file;
  }

  // What the paths of all that is shown begin with.
  get prefix() {
    return this.folder + this.begins;
  }

  get hash() {
    const begins = this.begins ? `?${encodeURIComponent(this.begins)}` : "";
    return `#${encodePath(this.file ?? this.folder)}${this.file === null ? begins : ""}`;
  }
}

export function placeOf(hash) {
  const [path, begins = ""] = hash.replace(/^#/, "").split("?");
  const decoded = unescaped(path).replace(/^\/+/, "");
  const cut = decoded.lastIndexOf("/") + 1;
  const folder = decoded.slice(0, cut);
  return cut === decoded.length
    ? new Place(folder, unescaped(begins))
    : new Place(folder, "", decoded);
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand
  }
}

export function encodePath(path) {
  return path.split("/").map(encodeURIComponent).join("/");
}

// The address of a file, absolute: for links that are given away.
export function urlOf(path) {
  return new URL(`../file?path=${encodePath(path)}`, document.baseURI).href;
}

// The same for what is shown here: another one for another state of the file, so that an image that
// was replaced is not taken from memory.
export function urlOfState({ path, etag }) {
  return etag ? `${urlOf(path)}&state=${encodeURIComponent(etag)}` : urlOf(path);
}

// The folders on the way to `folder`: {name, folder}, the topmost not among them.
export function waysTo(folder) {
  const names = folder.split("/").slice(0, -1);
  return names.map((name, at) => ({ name, folder: `${names.slice(0, at + 1).join("/")}/` }));
}

export function nameOf(path) {
  return path.replace(/\/$/, "").split("/").pop();
}
