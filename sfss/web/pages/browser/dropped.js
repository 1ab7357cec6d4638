// The files of a drop or a choice: {file, path}, the path below the folder where they were dropped.

// `transfer` is looked at before the first pause: afterwards the browser has emptied it.
export async function filesDropped(transfer) {
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const entry of entries) {
    if (entry instanceof File) {
      found.push({ file: entry, path: entry.name });
    } else if (entry) {
      await walk(entry, "", found);
    }
  }
  return found;
}

async function walk(entry, folder, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    // One that went away while it was dropped is shown all the same, as one that cannot be read.
    found.push({ file, path: folder + entry.name });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A hundred at a time, until there are none.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(
      () => [],
    );
    if (!some.length) {
      return;
    }
    for (const each of some) {
      await walk(each, `${folder}${entry.name}/`, found);
    }
  }
}

export function filesChosen(files) {
  return [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}
