// Figures as people read them.

import { sizeOf } from "./sizes.js";

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const NOT_KNOWN = "–";

export function number(value) {
  return value === null || value === undefined ? NOT_KNOWN : plain.format(value);
}

// Three digits, with k, M, G for thousands.
function short(value, units) {
  let at = 0;
  let left = value;
  while (left >= 999.5 && at < units.length - 1) {
    left /= 1000;
    at += 1;
  }
  const digits = left >= 99.5 || (at === 0 && Number.isInteger(left)) ? 0 : left >= 9.95 ? 1 : 2;
  return `${Number(left.toFixed(digits))}${units[at]}`;
}

export function rate(value) {
  if (value === null || value === undefined) {
    return NOT_KNOWN;
  }
  return value > 0 && value < 0.095 ? "<\u00a00.1" : short(Math.round(value * 10) / 10, ["", "\u00a0k", "\u00a0M"]);
}

export function bytes(value) {
  return value === null || value === undefined ? NOT_KNOWN : sizeOf(value);
}

export function seconds(range) {
  if (range === null) {
    return NOT_KNOWN;
  }
  const [low, high] = range;
  if (high === Infinity) {
    return `>\u00a0${time(low)}`;
  }
  return low === 0 ? `<\u00a0${time(high)}` : time(high);
}

// Two digits: between the bounds in which it is counted, nobody knows more.
function time(value) {
  const [scaled, unit] = value >= 0.9995 ? [value, "s"] : [value * 1000, "ms"];
  return `${Number(scaled.toPrecision(2))}\u00a0${unit}`;
}

export function share(value) {
  if (value === null || !Number.isFinite(value)) {
    return NOT_KNOWN;
  }
  const percent = 100 * value;
  return percent > 99 && percent < 100 ? `${percent.toFixed(1)}\u00a0%` : `${Math.round(percent)}\u00a0%`;
}

// The two largest units: "3 d 4 h".
export function duration(value) {
  const units = [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
    ["s", 1],
  ];
  const first = units.findIndex(([, size]) => value >= size);
  if (first < 0) {
    return "0 s";
  }
  const [[unit, size], [lesser, step] = ["", 0]] = [units[first], units[first + 1]];
  const whole = Math.floor(value / size);
  const rest = step ? Math.floor((value - whole * size) / step) : 0;
  return rest && unit !== "min" ? `${whole} ${unit} ${rest} ${lesser}` : `${whole} ${unit}`;
}

export function ago(at_s, now_s) {
  const past_s = Math.max(0, now_s - at_s);
  return past_s < 5 ? "just now" : `${duration(past_s)} ago`;
}

export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

const KINDS = {
  bad_argument: "bad argument",
  bad_body: "bad body",
  bad_path: "bad path",
  body_timeout: "body came too slowly",
  cannot_list: "store cannot list",
  cannot_tell: "store cannot tell",
  corrupt: "damaged in the store",
  internal: "mistake of sfss, see its log",
  no_store_reachable: "no store reachable",
  not_found: "not found",
  path_taken: "path taken",
  precondition_failed: "condition not met",
  quorum_failed: "too few stores kept it",
  refused: "refused",
  setting_error: "wrong setting",
  store_full: "store full",
  too_large: "too large",
  too_many_names: "too many names",
  unreachable: "store unreachable",
  unsettled: "changed all the time",
  unsupported_coding: "unknown coding",
  status_400: "malformed request",
  status_401: "no token, or a wrong one",
  status_403: "token may not do that",
  status_404: "no such address",
  status_405: "method not allowed",
  status_408: "request came too slowly",
  status_413: "too large",
  status_416: "no such range",
  status_429: "too many requests",
  status_431: "header too large",
  status_503: "not now",
  status_507: "quota used up",
};

// Of these, somebody who runs the service should know.
const GRAVE = new Set([
  "corrupt",
  "internal",
  "no_store_reachable",
  "quorum_failed",
  "store_full",
  "unreachable",
  "cannot_tell",
  "unsettled",
  "setting_error",
]);

export function kind(name) {
  return KINDS[name] ?? name.replaceAll("_", " ");
}

export function isGrave(name) {
  return GRAVE.has(name) || name.startsWith("status_5");
}
