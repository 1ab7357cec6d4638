// Removing files, and folders, which are the files in them.

import { nameOf } from "./address.js";
import { confirmRemoval } from "./dialogs.js";
import { named, say } from "./elements.js";
import { counted } from "./figures.js";
import { list, remove } from "./service.js";

const AT_ONCE = 6;
const PAGE = 1000;

// Ask, and remove the file; return whether it is gone.
export async function removeFile(path) {
  const name = named(nameOf(path));
  if (!(await confirmRemoval(name))) {
    return false;
  }
  try {
    await removed(path);
  } catch (error) {
    say(named(nameOf(path)), ` was not deleted: ${error.message}`);
    return false;
  }
  say(named(nameOf(path)), " was deleted");
  return true;
}

// That it was gone before is as well.
async function removed(path) {
  try {
    await remove(path);
  } catch (error) {
    if (error.status !== 404) {
      throw error;
    }
  }
}

// Ask, and remove all files in the folder; return whether anything may have changed.
export async function removeFolder(folder) {
  let number = 0;
  try {
    const first = await list(folder, { limit: PAGE, deep: true });
    const asked = { count: pathsIn(first).length, more: first.next !== null };
    if (!(await confirmRemoval(named(nameOf(folder)), asked))) {
      return false;
    }
    for (let page = first; pathsIn(page).length; page = await list(folder, { limit: PAGE, deep: true })) {
      number += await removeAll(pathsIn(page));
      say(`${counted(number, "file")} deleted so far`);
    }
  } catch (error) {
    say(named(nameOf(folder)), ` is not wholly deleted, ${counted(number, "file")} are: ${error.message}`);
    return true;
  }
  say(named(nameOf(folder)), ` was deleted: ${counted(number, "file")}`);
  return true;
}

function pathsIn({ files, damaged }) {
  return [...files.map((each) => each.path), ...damaged];
}

async function removeAll(paths) {
  const rest = [...paths];
  const work = async () => {
    while (rest.length) {
      await removed(rest.pop());
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return paths.length;
}
