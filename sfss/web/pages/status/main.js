// The page: what the server sends is drawn; what it asks for, a token, is asked of the person; and
// when it sends nothing any more, that is said.

import { byId, mark, say, show } from "./elements.js";
import { History } from "./history.js";
import { drawCare, drawErrors, drawMembers, drawRequests, drawStores, drawTiles, headline, noNews } from "./parts.js";
import { listen } from "./stream.js";

const TOKEN = "sfss-token";
const history = new History();
let is_asking = false;

show(byId("no-script"), false);

const stream = listen("events", {
  token: () => sessionStorage.getItem(TOKEN),
  opening: () => {
    if (!history.last) {
      live("", "Connecting");
    }
  },
  heard: (name, said) => {
    if (name === "hello") {
      show(byId("to-files"), said.has_files);
      show(byId("to-api"), said.has_api);
      show(byId("forget"), sessionStorage.getItem(TOKEN) !== null);
    } else if (name === "message") {
      draw(said);
    }
  },
  failed,
});

function draw(snapshot) {
  history.add(snapshot);
  is_asking = false;
  show(byId("door"), false);
  show(byId("broken"), false);
  show(byId("shown"), true);
  show(byId("explained"), true);
  live("good", "Live");
  headline(snapshot);
  drawTiles(history);
  drawStores(history);
  drawMembers(snapshot);
  drawCare(history);
  drawRequests(history);
  drawErrors(history);
}

function live(state, word) {
  show(byId("live"), true);
  mark(byId("live"), "class", `pill ${state}`);
  say(byId("live"), word);
}

// -- when there are no events

let ticking = 0;

function failed({ status, sentence, wait_ms, is_usual }) {
  clearInterval(ticking);
  if (wait_ms === null) {
    ask(status, sentence);
    return;
  }
  if (is_usual) {
    return; // the worker has ended, as in a reload; another one takes over at once
  }
  live("warn", "Not live");
  const until_ms = Date.now() + wait_ms;
  const why =
    status === 0
      ? "The server does not answer."
      : status === 200
        ? "The server, or a proxy before it, ends each answer before anything is said."
        : sentence || `The server answers with status ${status}.`;
  if (history.last) {
    noNews(new Date(history.last.at_s * 1000).toLocaleTimeString());
  }
  say(byId("broken-words"), `${why} It is tried again by itself.`);
  show(byId("broken"), true);
  show(byId("door"), false);
  const tick = () => {
    const left_s = Math.max(0, Math.ceil((until_ms - Date.now()) / 1000));
    say(byId("again"), left_s ? `Try now (in ${left_s} s)` : "Trying …");
  };
  tick();
  ticking = setInterval(tick, 500);
}

byId("again").addEventListener("click", () => stream.restart());

// -- the token

function ask(status, sentence) {
  const had = sessionStorage.getItem(TOKEN) !== null;
  show(byId("shown"), false);
  show(byId("explained"), false);
  show(byId("broken"), false);
  show(byId("door"), true);
  show(byId("forget"), had);
  live("", "Locked");
  const refused = status === 403 ? "This token may not see the status." : "This token is not accepted.";
  say(byId("door-words"), had ? refused : "");
  mark(byId("token"), "aria-invalid", had);
  byId("door-words").title = sentence;
  if (!is_asking || had) {
    byId("token").focus();
  }
  is_asking = true;
}

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  stream.restart();
});

byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  history.snapshots = [];
  stream.restart();
});
