// The way from the topmost folder to the one that is shown, as links.

import { Place, waysTo } from "./address.js";
import { byId, make, named, picture } from "./elements.js";

export function showCrumbs(folder) {
  const home = make("a", { href: "#", className: "home", title: "All files" }, picture("home"));
  home.setAttribute("aria-label", "All files");
  const links = waysTo(folder).map((way) =>
    make("a", { href: new Place(way.folder).hash }, named(way.name)),
  );
  const all = [home, ...links];
  all.at(-1).setAttribute("aria-current", "page");
  byId("crumbs").replaceChildren(make("ol", {}, ...all.map((each) => make("li", {}, each))));
}
