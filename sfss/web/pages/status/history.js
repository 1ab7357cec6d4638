// What went on between two snapshots: the server counts from its start. Nothing here is shown.

const KEPT_S = 180;
const MINUTE_S = 60;
const NOW_S = 9;
const LEAST_SPAN_S = 30;

export class History {
  constructor() {
    this.snapshots = [];
  }

  add(snapshot) {
    const last = this.snapshots.at(-1);
    // Another start: what was counted before is no part of what is counted now.
    if (last && snapshot.uptime < last.uptime) {
      this.snapshots = [];
    }
    this.snapshots.push(snapshot);
    while (this.snapshots[0].at_s < snapshot.at_s - KEPT_S) {
      this.snapshots.shift();
    }
  }

  get last() {
    return this.snapshots.at(-1);
  }

  // The oldest of the last `seconds`, if it is not the last one.
  since(seconds) {
    const from_s = this.last.at_s - seconds;
    const found = this.snapshots.find((each) => each.at_s >= from_s);
    return found === this.last ? null : found;
  }

  // Seconds that a drawing of what was goes back: more and more, up to all that is kept.
  get span_s() {
    return Math.min(KEPT_S, Math.max(LEAST_SPAN_S, this.last.at_s - this.snapshots[0].at_s));
  }

  // How much `count`, a function of a snapshot, has grown a second of late; null: not known yet.
  rate(count, seconds = NOW_S) {
    const before = this.since(seconds);
    return before && grown(before, this.last, count) / (this.last.at_s - before.at_s);
  }

  // The same between each two snapshots, as points [seconds before now, rate].
  rates(count) {
    const points = [];
    for (let at = 1; at < this.snapshots.length; at += 1) {
      const [before, after] = [this.snapshots[at - 1], this.snapshots[at]];
      const rate = grown(before, after, count) / Math.max(0.001, after.at_s - before.at_s);
      points.push([this.last.at_s - after.at_s, rate]);
    }
    return points;
  }

  // `value`, a function of a snapshot, over time.
  values(value) {
    return this.snapshots.map((each) => [this.last.at_s - each.at_s, value(each) ?? 0]);
  }

  // How much `count` has grown in the last minute; since the start of the server where less is known.
  minute(count) {
    const before = this.since(MINUTE_S);
    return before ? grown(before, this.last, count) : null;
  }

  // Counts by duration of the lines `wanted` of `table`, in the last minute; of all time where that
  // is not known yet.
  durations(table, wanted) {
    const now = summed(this.last[table], wanted);
    const earlier = this.since(MINUTE_S);
    if (!earlier || !now) {
      return now;
    }
    const before = summed(earlier[table], wanted);
    return before ? now.map((count, at) => Math.max(0, count - before[at])) : now;
  }
}


function grown(before, after, count) {
  return Math.max(0, (count(after) ?? 0) - (count(before) ?? 0));
}

function summed(lines, wanted) {
  const found = lines.filter((line) => wanted(line.name));
  return found.length ? found.map((line) => line.counts).reduce(added) : null;
}

function added(one, other) {
  return one.map((count, at) => count + other[at]);
}

export function total(counts) {
  return counts.reduce((sum, count) => sum + count, 0);
}

// How many a snapshot has counted in the lines `wanted` of `table`.
export function counted(table, wanted) {
  return (snapshot) =>
    snapshot[table].filter((line) => wanted(line.name)).reduce((sum, line) => sum + total(line.counts), 0);
}

// Seconds that a `share` of all took at most, [low, high]: between two bounds, the last open. null:
// there were none.
export function quantile(counts, share, bounds_s) {
  const all = counts ? total(counts) : 0;
  if (!all) {
    return null;
  }
  let left = share * all;
  for (const [at, count] of counts.entries()) {
    if (count && left <= count) {
      const [low, high] = [bounds_s[at - 1] ?? 0, bounds_s[at] ?? Infinity];
      return high === Infinity || at === 0 ? [low, high] : [low, low + (high - low) * (left / count)];
    }
    left -= count;
  }
  return [bounds_s.at(-1), Infinity];
}
