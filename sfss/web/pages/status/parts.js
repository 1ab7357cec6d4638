// The parts of the page: each shows one side of the latest snapshot, and of what went before it.

import { byId, keep, make, pill, row, say, show, spark, mark } from "./elements.js";
import { counted, quantile } from "./history.js";
import * as words from "./words.js";

const all = () => true;
const isServerError = ([, , status]) => status.startsWith("5");

// -- the verdict

// What is wrong, worst first: [{state, text}].
export function findings(now) {
  const found = [];
  const say_ = (state, text) => found.push({ state, text });
  if (!now.ready) {
    say_("bad", `Not ready: ${now.why}`);
  }
  const down = now.stores.filter((store) => store.why);
  if (down.length) {
    const all_down = down.length === now.stores.length;
    say_(all_down ? "bad" : "warn", `${down.length} of ${words.count(now.stores.length, "store")} ${down.length === 1 ? "does" : "do"} not answer`);
  }
  const repairs = now.owed?.needs_repair ?? [];
  if (repairs.length) {
    say_("bad", `${words.count(repairs.length, "store")} ${repairs.length === 1 ? "waits" : "wait"} for sfss repair: ${repairs.join(", ")}`);
  }
  if (now.owed?.writes) {
    say_("warn", `${words.count(now.owed.writes, "write")} owed to stores`);
  }
  if (now.owed?.bucket) {
    say_("warn", `${words.count(now.owed.bucket, "object")} owed to the bucket`);
  }
  for (const store of now.stores) {
    const left = store.capacity_bytes ? store.free_bytes / store.capacity_bytes : 1;
    if (left < 0.05 && store.evicted_files === null) {
      say_("warn", `${store.address} is nearly full`);
    }
  }
  for (const tool of now.tools) {
    if (tool.state !== "listing" && tool.state !== "running" && tool.remaining && tool.tool !== "check") {
      say_("warn", `sfss ${tool.tool} has left ${words.count(tool.remaining, "finding")} as they were`);
    }
  }
  const away = Object.values(now.members?.members ?? {}).filter((member) => !member.live).length;
  if (away) {
    say_("warn", `${words.count(away, "member")} ${away === 1 ? "does" : "do"} not answer`);
  }
  return found;
}

export function headline(now) {
  const found = findings(now);
  const state = found.some((each) => each.state === "bad") ? "bad" : found.length ? "warn" : "good";
  setVerdict(state, found.length ? found[0].text : "All is well");
  const reasons = byId("reasons");
  show(reasons, found.length > 1);
  keep(reasons, found.slice(1), (each) => each.text, (each) => {
    const item = make("li", {}, each.text);
    item.update = () => {};
    return item;
  });
  say(byId("about"), about(now));
}

// What was well a while ago is not known to be.
export function noNews(since) {
  setVerdict("idle", `No news since ${since}`);
  show(byId("reasons"), false);
}

function setVerdict(state, text) {
  const image = byId("verdict-picture");
  if (image.dataset.state !== state) {
    image.dataset.state = state;
    image.replaceChildren(pictureOf(state));
  }
  mark(byId("headline"), "data-state", state);
  say(byId("verdict"), text);
  document.title = `${state === "good" ? "" : "⚠ "}Status – sfss`;
}

function pictureOf(state) {
  const sign = pill();
  sign.set(state, "");
  return sign.firstChild;
}

function about(now) {
  const { kind, placement, copies, write_quorum } = now.about;
  const kept = {
    embedded: "embedded store",
    nodes: "memcached servers, one for each key",
    proxies: "proxies",
    joined: "gateways that joined each other",
  }[kind];
  const parts = [`sfss ${now.version}`];
  if (kept) {
    parts.push(kept);
  }
  if (copies) {
    parts.push(`${copies === 1 ? "1 copy" : `${copies} copies`} (${placement}), a write waits for ${write_quorum}`);
  }
  parts.push(words.count(now.workers, "worker"), `up ${words.duration(now.uptime)}`);
  return parts.join(" · ");
}

// -- tiles

function tiles(history) {
  const now = history.last;
  const requests = counted("requests", all);
  const errors = counted("requests", isServerError);
  const [sent, received] = [(each) => each.sent_bytes, (each) => each.received_bytes];
  const durations = history.durations("requests", all);
  const perSecond = (value) => (value === null ? words.NOT_KNOWN : `${words.bytes(value)}/s`);
  const lag = history.durations("lag", all);
  const found = [
    {
      name: "Requests a second",
      value: words.rate(history.rate(requests)),
      more: `p50 ${words.seconds(quantile(durations, 0.5, now.bounds_s))}, p99 ${words.seconds(quantile(durations, 0.99, now.bounds_s))}`,
      points: history.rates(requests),
      least: 1,
    },
    {
      name: "Sent",
      value: perSecond(history.rate(sent)),
      more: `received ${perSecond(history.rate(received))}`,
      points: history.rates((each) => sent(each) + received(each)),
      least: 1024,
    },
    {
      name: "Server errors a second",
      value: words.rate(history.rate(errors)),
      more: `${words.number(history.minute(errors))} in the last minute`,
      points: history.rates(errors),
      least: 1,
      state: history.rate(errors) ? "bad" : "",
    },
    {
      name: "Open connections",
      value: words.number(now.connections),
      more: `event loop late: p99 ${words.seconds(quantile(lag, 0.99, now.bounds_s))}`,
      points: history.values((each) => each.connections),
      least: 10,
    },
  ];
  const [hits, misses] = ["cache_hits", "cache_misses"].map((name) => (each) => each.events[name] ?? 0);
  if (hits(now) + misses(now)) {
    found.push(cacheTile(history, hits, misses));
  }
  return found;
}

function cacheTile(history, hits, misses) {
  const now = history.last;
  const before = history.since(60);
  let [had, lacked] = before
    ? [hits(now) - hits(before), misses(now) - misses(before)]
    : [hits(now), misses(now)];
  let span = before ? "of the last minute" : "since the start";
  if (!(had + lacked)) {
    [had, lacked, span] = [hits(now), misses(now), "since the start"];
  }
  return {
    name: "Found in the cache",
    value: words.share(had / (had + lacked)),
    more: `${words.number(had)} of ${words.count(had + lacked, "read")} ${span}`,
    points: history.rates(hits),
    least: 1,
  };
}

export function drawTiles(history) {
  keep(byId("tiles"), tiles(history), (tile) => tile.name, (first) => {
    const [value, more, line] = [make("dd", { class: "value" }), make("dd", { class: "more soft" }), spark()];
    const element = make("div", { class: "card tile" }, make("dt", {}, first.name), value, more, make("dd", { class: "drawn" }, line));
    element.update = (tile) => {
      say(value, tile.value);
      mark(value, "data-state", tile.state ?? "");
      say(more, tile.more);
      line.draw(tile.points, history.span_s, tile.least);
    };
    return element;
  });
}

// -- stores

const STORE_TITLES = ["Store", "Room", "Items", "Asked/s", "p50", "p99", "Failed"];

export function drawStores(history) {
  const { stores } = history.last;
  show(byId("stores-part"), stores.length > 0);
  keep(byId("stores"), stores, (store) => store.address, () => {
    const { element, cells } = row(STORE_TITLES, [2, 3, 4, 5, 6]);
    const [state, address, why] = [pill(), make("span", { class: "address" }), make("span", { class: "why" })];
    cells[0].append(make("span", { class: "named" }, address, state), why);
    const room = meter();
    cells[1].append(room);
    element.update = (store) => {
      const now = history.last;
      const asked = ([, , at]) => at === store.address;
      const failed = ([, outcome, at]) => at === store.address && outcome === "error";
      const durations = history.durations("operations", asked);
      const is_doubted = now.owed?.needs_repair.includes(store.address);
      say(address, store.address);
      state.set(...stateOf(store, is_doubted, now));
      say(why, store.why.replace(`store ${store.address} `, "") || (is_doubted ? "it has missed more than was noted: run sfss repair" : ""));
      show(why, why.textContent !== "");
      room.set(store);
      say(cells[2], words.number(store.items));
      say(cells[3], words.rate(history.rate(counted("operations", asked))));
      say(cells[4], words.seconds(quantile(durations, 0.5, now.bounds_s)));
      say(cells[5], words.seconds(quantile(durations, 0.99, now.bounds_s)));
      const failures = history.minute(counted("operations", failed));
      say(cells[6], words.number(failures));
      mark(cells[6], "data-state", failures ? "bad" : "");
    };
    return element;
  });
}

function stateOf(store, is_doubted, now) {
  if (store.why) {
    return ["bad", "down"];
  }
  if (is_doubted) {
    return ["warn", "needs repair"];
  }
  return ["good", store.address === now.about.cache ? "up, cache" : "up"];
}

// How full a store is: a bar, and words that say the same.
function meter() {
  const bar = make("progress", { max: "1", "aria-hidden": "true" });
  const text = make("span", { class: "room" });
  const element = make("div", { class: "meter" }, bar, text);
  element.set = (store) => {
    const { used_bytes, free_bytes, capacity_bytes } = store;
    const full = capacity_bytes ? 1 - free_bytes / capacity_bytes : null;
    show(bar, full !== null);
    if (full !== null) {
      bar.value = full;
      mark(bar, "class", full > 0.95 && store.evicted_files === null ? "tight" : "");
    }
    const parts = [];
    if (used_bytes !== null) {
      parts.push(`${words.bytes(used_bytes)} used`);
    }
    if (capacity_bytes) {
      parts.push(`${words.bytes(free_bytes)} of ${words.bytes(capacity_bytes)} free`);
    }
    if (store.evicted_files) {
      parts.push(`${words.number(store.evicted_files)} evicted`);
    }
    say(text, parts.join(", ") || "not told");
  };
  return element;
}

// -- members

export function drawMembers(now) {
  const members = Object.entries(now.members?.members ?? {});
  show(byId("members-part"), now.members !== null);
  const moving = now.members?.moving;
  show(byId("moving"), Boolean(moving));
  if (moving) {
    const share = moving.keys ? words.share(Math.min(1, moving.seen / moving.keys)) : words.NOT_KNOWN;
    const what = `${words.count(moving.moved, "file")} (${words.bytes(moving.bytes)}) moved`;
    say(byId("moving"), moving.done ? `Files have moved: ${what}.` : `Files are moving: ${share} looked at, ${what}${moving.failed ? `, ${moving.failed} failed` : ""}.`);
  }
  keep(byId("members"), members, ([address]) => address, () => {
    const { element, cells } = row(["Member", "State"]);
    const state = pill();
    cells[1].append(state);
    element.update = ([address, member]) => {
      say(cells[0], address);
      const word = member.leaves ? "leaving" : member.live ? "up" : "does not answer";
      state.set(member.live ? (member.leaves ? "work" : "good") : "bad", word);
    };
    return element;
  });
}

// -- copies, and repair tools

export function drawCare(history) {
  const now = history.last;
  const has_copies = Boolean(now.about.copies) || now.about.kind === "groups";
  const facts = [];
  if (has_copies || now.owed?.writes) {
    const writes = now.owed?.writes ?? null;
    facts.push({ name: "Owed writes", value: words.number(writes), state: writes ? "warn" : "" });
  }
  if (now.owed && now.owed.bucket !== null) {
    facts.push({ name: "Owed to the bucket", value: words.number(now.owed.bucket), state: now.owed.bucket ? "warn" : "" });
  }
  const events = { mended: "Copies mended", damaged: "Found damaged", paid: "Debts paid", expired: "Expired" };
  for (const [event, name] of Object.entries(events)) {
    if (has_copies || now.events[event]) {
      facts.push({ name, value: words.number(now.events[event] ?? 0), state: event === "damaged" && history.minute((each) => each.events.damaged) ? "bad" : "" });
    }
  }
  if (now.migration) {
    const { state, copied } = now.migration;
    const word = { old: "not begun", both: copied ? "copied" : "under way", back: "going back", new: "ended" }[state];
    facts.push({ name: "Migration", value: word ?? state });
  }
  show(byId("care-part"), facts.length > 0 || now.tools.length > 0);
  show(byId("care"), facts.length > 0);
  keep(byId("care"), facts, (fact) => fact.name, (first) => {
    const value = make("dd");
    const element = make("div", {}, make("dt", {}, first.name), value);
    element.update = (fact) => {
      say(value, fact.value);
      mark(value, "data-state", fact.state ?? "");
    };
    return element;
  });
  show(byId("tools-card"), now.tools.length > 0);
  drawTools(history);
}

const TOOL_STATES = {
  listing: ["work", "listing stores"],
  running: ["work", "at work"],
  finished: ["good", "finished"],
  interrupted: ["idle", "interrupted"],
  failed: ["bad", "failed"],
  lost: ["bad", "killed"],
};

function drawTools(history) {
  const titles = ["Tool", "Progress", "Found", "Mended", "Left", "When"];
  keep(byId("tools"), history.last.tools, (tool) => `${tool.tool} ${tool.group}`, () => {
    const { element, cells } = row(titles, [2, 3, 4]);
    cells[5].classList.add("long");
    const [name, state] = [make("span", { class: "address" }), pill()];
    cells[0].append(make("span", { class: "named" }, name, state));
    const [bar, text] = [make("progress", { max: "1", "aria-hidden": "true" }), make("span", { class: "room" })];
    cells[1].append(make("div", { class: "meter" }, bar, text));
    element.update = (tool) => {
      const now = history.last;
      say(name, `${tool.tool}${tool.group ? ` ${tool.group}` : ""}${tool.dry_run ? " (dry run)" : ""}`);
      let [look, word] = TOOL_STATES[tool.state] ?? ["idle", tool.state];
      if (tool.state === "finished" && tool.status) {
        [look, word] = ["warn", tool.status === 2 ? "finished, not all seen" : "finished, not all well"];
      }
      state.set(look, word);
      const done = tool.keys ? tool.done / tool.keys : 0;
      show(bar, tool.state !== "listing");
      bar.value = Math.min(1, done);
      say(text, tool.state === "listing" ? `${words.count(tool.keys, "key")} listed` : `${words.number(tool.done)} of ${words.count(tool.keys, "key")}`);
      [tool.findings, tool.mended + tool.moved + tool.removed, tool.remaining].forEach((value, at) => say(cells[2 + at], words.number(value)));
      mark(cells[4], "data-state", tool.remaining ? "warn" : "");
      const at_work = tool.state === "listing" || tool.state === "running";
      const took_s = (tool.ended_s || tool.updated_s) - tool.started_s;
      const took = took_s < 1 ? "less than a second" : words.duration(took_s);
      say(cells[5], at_work ? `for ${words.duration(now.at_s - tool.started_s)}` : `${words.ago(tool.ended_s || tool.updated_s, now.at_s)}, took ${took}`);
    };
    return element;
  });
}

// -- requests and errors

export function drawRequests(history) {
  const now = history.last;
  const names = [...new Set(now.requests.map(({ name: [face, method] }) => `${face} ${method}`))];
  const lines = names.map((name) => {
    const [face, method] = name.split(" ");
    const wanted = (each) => each[0] === face && each[1] === method;
    return { face, method, wanted, since_start: counted("requests", wanted)(now) };
  });
  lines.sort((one, other) => other.since_start - one.since_start);
  show(byId("no-requests"), lines.length === 0);
  const titles = ["Face, method", "Lately", "Per second", "p50", "p99", "In all"];
  keep(byId("requests"), lines, (line) => `${line.face} ${line.method}`, () => {
    const { element, cells } = row(titles, [2, 3, 4, 5]);
    const [face, method, line] = [make("span"), make("span", { class: "method" }), spark()];
    cells[0].append(face, " ", method);
    cells[1].append(line);
    cells[1].classList.add("drawn");
    element.update = (each) => {
      say(face, each.face === "none" ? "no address" : each.face);
      say(method, each.method);
      const count = counted("requests", each.wanted);
      line.draw(history.rates(count), history.span_s, 1);
      say(cells[2], words.rate(history.rate(count)));
      const durations = history.durations("requests", each.wanted);
      const { bounds_s } = history.last;
      say(cells[3], words.seconds(quantile(durations, 0.5, bounds_s)));
      say(cells[4], words.seconds(quantile(durations, 0.99, bounds_s)));
      say(cells[5], words.number(each.since_start));
    };
    return element;
  });
}

export function drawErrors(history) {
  const now = history.last;
  const kinds = Object.entries(now.errors).sort((one, other) => other[1] - one[1]);
  kinds.sort(([one], [other]) => words.isGrave(other) - words.isGrave(one));
  show(byId("no-errors"), kinds.length === 0);
  keep(byId("errors"), kinds, ([name]) => name, ([name]) => {
    const { element, cells } = row(["Kind", "Last minute", "In all"], [1, 2]);
    cells[0].append(words.kind(name));
    element.update = ([, count]) => {
      const late = history.minute((each) => each.errors[name] ?? 0);
      say(cells[1], words.number(late));
      mark(cells[1], "data-state", late && words.isGrave(name) ? "bad" : "");
      say(cells[2], words.number(count));
    };
    return element;
  });
}
