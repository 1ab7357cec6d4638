// How the page is changed: only where it says something else than before, so that what somebody
// reads, hears or selects stays where it is. Text is text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children);
  return element;
}

export function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

export function show(element, is_shown) {
  if (element.hidden === is_shown) {
    element.hidden = !is_shown;
  }
}

export function mark(element, name, value) {
  if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

export function picture(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  svg.firstChild.setAttribute("href", `#${name}`);
  return svg;
}

// A state in a picture, a word and a colour: "good", "warn", "bad", "idle", "work".
export function pill() {
  const [image, word] = [picture("idle"), make("span")];
  const element = make("span", { class: "pill" }, image, word);
  element.set = (state, text) => {
    mark(element, "class", `pill ${state}`);
    mark(image.firstChild, "href", `#${state}`);
    say(word, text);
  };
  return element;
}

// Points [seconds before now, value] as a line, newest at the right; for the eye only.
export function spark() {
  const svg = document.createElementNS(SVG, "svg");
  const [area, line] = ["area", "line"].map((name) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    return path;
  });
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 120 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(area, line);
  svg.draw = (points, span_s, least = 0) => {
    if (points.length < 2) {
      return;
    }
    const top = Math.max(least, ...points.map(([, value]) => value)) || 1;
    const place = ([before_s, value]) =>
      `${(120 - (120 * before_s) / span_s).toFixed(1)} ${(28.5 - (27 * value) / top).toFixed(2)}`;
    const drawn = points.map(place).join("L");
    line.setAttribute("d", `M${drawn}`);
    area.setAttribute("d", `M${place([points[0][0], 0])}L${drawn}L${place([points.at(-1)[0], 0])}Z`);
  };
  return svg;
}

// Keep the children of `parent` like `items`, each made once by `begin(item)`, which returns an
// element with a method `update(item)`, called with each later one, too; `key(item)` tells them apart.
export function keep(parent, items, key, begin) {
  const known = (parent.known ??= new Map());
  const wanted = new Set(items.map(key));
  for (const [name, element] of known) {
    if (!wanted.has(name)) {
      element.remove();
      known.delete(name);
    }
  }
  items.forEach((item, at) => {
    const name = key(item);
    if (!known.has(name)) {
      known.set(name, begin(item));
    }
    const element = known.get(name);
    if (parent.children[at] !== element) {
      parent.insertBefore(element, parent.children[at] ?? null);
    }
    element.update(item);
  });
}

// A row with cells of these titles, the first a heading. Roles are named, for a narrow window shows
// rows as cards, and browsers take those for no table.
export function row(titles, numbers = []) {
  const cells = titles.map((title, at) => {
    const is_first = at === 0;
    const cell = make(is_first ? "th" : "td", { role: is_first ? "rowheader" : "cell", "data-title": title });
    if (is_first) {
      cell.scope = "row";
    }
    if (numbers.includes(at)) {
      cell.className = "number";
    }
    return cell;
  });
  return { element: make("tr", { role: "row" }, ...cells), cells };
}
