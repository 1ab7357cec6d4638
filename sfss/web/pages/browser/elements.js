// How elements are made. Text becomes text, never HTML, wherever it came from.

// An element <tag> with properties or attributes ("aria-…", "data-…", "class"; `on` is a map of
// listeners) and children: nodes, or texts.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      Object.entries(value).forEach(([event, listener]) => element.addEventListener(event, listener));
    } else if (name in element) {
      element[name] = value;
    } else {
      element.setAttribute(name, value);
    }
  }
  element.append(...children);
  return element;
}

export function picture(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  svg.firstChild.setAttribute("href", `#${name}`);
  return svg;
}

export function iconButton(name, label, act) {
  const button = make("button", { type: "button", className: "plain icon", title: label });
  button.setAttribute("aria-label", label);
  button.append(picture(name));
  button.addEventListener("click", act);
  return button;
}

export function byId(id) {
  return document.getElementById(id);
}

// What can be seen of a name that does not show: control characters, and those that turn the
// direction of a text, by which "gpj.exe" is made to look like "exe.jpg". Joiners of scripts and of
// emoji may stay.
const UNSEEN = /((?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}])/u;

// A name as it is shown: with its own direction, and nothing hidden in it.
export function named(text) {
  const element = make("bdi", { className: "name" });
  for (const [at, piece] of text.split(UNSEEN).entries()) {
    if (at % 2) {
      const code = piece.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      element.append(make("span", { className: "code" }, `U+${code}`));
    } else {
      element.append(piece);
    }
  }
  return element;
}

// Say something, to the eye for a while and to the ear once.
let silence = 0;

export function say(...parts) {
  const said = byId("said");
  said.replaceChildren(...parts);
  clearTimeout(silence);
  silence = setTimeout(() => said.replaceChildren(), 6000);
}
