// Times and kinds of files, in words.

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

// A moment as the server writes it (RFC 3339), short: today's by the clock.
export function timeOf(text) {
  const moment = new Date(text);
  const isToday = moment.toDateString() === new Date().toDateString();
  return isToday ? `Today, ${CLOCK.format(moment)}` : DAY.format(moment);
}

export function momentOf(text) {
  return MOMENT.format(new Date(text));
}

export function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

const TEXTS = /^(text\/|application\/(.+\+)?(json|xml|yaml|toml|javascript|x-sh|sql)\b)/;
const UNKNOWN = "application/octet-stream";

// How a file of a media type can be shown: "image", "audio", "video", "text", or "unknown", which
// may turn out to be text; "file" cannot.
export function kindOf(type) {
  const plain = type.split(";")[0].trim().toLowerCase();
  const family = plain.split("/")[0];
  if (["image", "audio", "video"].includes(family)) {
    return family;
  }
  if (TEXTS.test(plain)) {
    return "text";
  }
  return plain === UNKNOWN ? "unknown" : "file";
}
