// Questions. Each is a dialog of the browser itself: it holds the focus, and Escape is "no".

import { make } from "./elements.js";
import { sizeOf } from "./sizes.js";

// Show a dialog; return the value of the button that ends it, null for Escape. `buttons` are
// [value, label, class]: the first has the focus unless `content` has a field, where Enter is the
// last.
function question(title, content, buttons) {
  const before = document.activeElement;
  return new Promise((resolve) => {
    let answer = null;
    const dialog = make("dialog", { className: "question", "aria-labelledby": "question" });
    const end = (value) => {
      answer = value;
      dialog.close();
    };
    const answers = buttons.map(([value, label, className], at) => {
      const type = at === buttons.length - 1 ? "submit" : "button";
      const on = type === "button" ? { click: () => end(value) } : {};
      return make("button", { type, className, on }, label);
    });
    const submit = (event) => {
      event.preventDefault();
      end(buttons.at(-1)[0]);
    };
    const heading = make("h2", { id: "question" }, ...title);
    const last = make("div", { className: "answers" }, ...answers);
    dialog.append(make("form", { on: { submit } }, heading, ...content, last));
    dialog.addEventListener("close", () => {
      dialog.remove();
      before?.focus();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector("input:not([type=checkbox])") ?? answers[0]).focus();
  });
}

export async function confirmRemoval(name, { count = null, more = false } = {}) {
  const files = count === 1 ? "the file" : `the ${count?.toLocaleString("en")}${more ? " or more" : ""} files`;
  const title = count === null ? ["Delete ", name, "?"] : ["Delete the folder ", name, "?"];
  const rest = count === null ? "" : `With it go ${files} in it. `;
  const words = make("p", { className: "soft" }, `${rest}This cannot be undone.`);
  const answer = await question(title, [words], [
    ["no", "Cancel", ""],
    ["yes", "Delete", "danger"],
  ]);
  return answer === "yes";
}

export async function confirmReplacement(name, size, areMore) {
  const box = make("input", { type: "checkbox", id: "for-all" });
  const all = make("label", { className: "choice" }, box, "Do the same for all others");
  const words = make("p", { className: "soft" }, `Replace it with yours (${sizeOf(size)})?`);
  const answer = await question([name, " is already there"], areMore ? [words, all] : [words], [
    ["skip", "Keep what is there", ""],
    ["replace", "Replace", "primary"],
  ]);
  return { replaces: answer === "replace", forAll: box.checked };
}

// Return the name of a folder that is to be, or null.
export async function askForFolder() {
  const field = make("input", { type: "text", id: "folder-name", autocomplete: "off", required: true });
  field.spellcheck = false;
  const label = make("label", { htmlFor: "folder-name" }, "Name");
  const note = make("p", { className: "soft small" }, "It is kept as soon as there is a file in it.");
  const answer = await question(["New folder"], [label, field, note], [
    ["no", "Cancel", ""],
    ["go", "Go there", "primary"],
  ]);
  const name = field.value.replace(/^\/+|\/+$/g, "");
  return answer === "go" && name ? name : null;
}

export async function askForToken(sentence, wasGiven) {
  const field = make("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const label = make("label", { htmlFor: "token" }, "Token");
  const words = wasGiven ? `This token is not accepted: ${sentence}` : "Files are shown to those who have a token.";
  const note = make("p", { className: "soft" }, words);
  const kept = make("p", { className: "soft small" }, "It is kept until this tab is closed.");
  const answer = await question(["A token is needed"], [note, label, field, kept], [
    ["no", "Cancel", ""],
    ["go", "Continue", "primary"],
  ]);
  return answer === "go" ? field.value.trim() : null;
}

// A link that could not be copied by itself.
export async function showLink(url) {
  const field = make("input", { type: "text", value: url, readOnly: true });
  field.setAttribute("aria-label", "Link");
  field.addEventListener("focus", () => field.select());
  const words = make("p", { className: "soft" }, "The browser does not let this page copy it.");
  await question(["Link"], [words, field], [["ok", "Close", "primary"]]);
}
