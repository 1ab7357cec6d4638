// Files that come in: by the buttons, or dropped on the page.

import { nameOf } from "./address.js";
import { confirmReplacement } from "./dialogs.js";
import { filesChosen, filesDropped } from "./dropped.js";
import { byId, named } from "./elements.js";
import { Queue } from "./queue.js";
import { summaryOf, Tray } from "./tray.js";

const REFRESH_MS = 1500;

// `limit()` gives the bytes that a file may have, `folder()` where files go; `stored()` is called
// now and then while files are stored, and at the end.
export function startUploading({ limit, folder, stored }) {
  let refresh = null;
  const refreshed = (delay) => {
    refresh ??= setTimeout(() => {
      refresh = null;
      stored();
    }, delay);
  };
  const queue = new Queue({
    limit,
    ask: (upload, areMore) => confirmReplacement(named(nameOf(upload.path)), upload.size, areMore),
    changed: (upload) => {
      tray.show(upload);
      if (!upload.hasEnded) {
        return;
      }
      if (queue.isIdle) {
        clearTimeout(refresh);
        refresh = null;
        stored();
        byId("told").textContent = summaryOf(queue);
      } else {
        refreshed(REFRESH_MS);
      }
    },
  });
  const tray = new Tray(queue, () => byId("upload-files").focus());
  startButtons(queue, folder);
  startDropping(queue, folder);
  addEventListener("beforeunload", (event) => {
    if (!queue.isIdle) {
      event.preventDefault();
    }
  });
  return queue;
}

function startButtons(queue, folder) {
  for (const [button, field] of [
    ["upload-files", "files-chosen"],
    ["upload-folder", "folder-chosen"],
  ]) {
    byId(button).addEventListener("click", () => byId(field).click());
    byId(field).addEventListener("change", ({ target }) => {
      queue.add(filesChosen(target.files), folder());
      target.value = ""; // so that the same file can be chosen again
    });
  }
}

function startDropping(queue, folder) {
  const target = byId("target");
  let depth = 0; // of elements that the pointer has entered and not left
  const show = (entered) => {
    depth = entered;
    target.hidden = depth <= 0;
    if (!target.hidden) {
      target.firstElementChild.replaceChildren("Drop to upload into ", named(folder() || "/"));
    }
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const takes = (event) => hasFiles(event) && !document.querySelector("dialog[open]");
  addEventListener("dragenter", (event) => takes(event) && show(depth + 1));
  addEventListener("dragleave", (event) => takes(event) && show(depth - 1));
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) {
      event.preventDefault(); // or the browser would open the file in place of the page
      event.dataTransfer.dropEffect = takes(event) ? "copy" : "none";
    }
  });
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) {
      return;
    }
    event.preventDefault();
    show(0);
    if (takes(event)) {
      const into = folder(); // before the files are looked at, which takes a while
      queue.add(await filesDropped(event.dataTransfer), into);
    }
  });
}
