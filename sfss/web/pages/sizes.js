// Numbers of bytes as people read them: the form of `readable_size` in readable.py.

const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB"];

// "512 B", "1.5 KiB", "2 MiB": one digit behind the point unless it is a zero, rounded half up.
export function sizeOf(bytes) {
  const whole = Math.floor(bytes + 0.5);
  if (whole < 1024) {
    return `${whole}\u00a0B`;
  }
  let count = bytes;
  for (const unit of UNITS) {
    count /= 1024;
    const tenths = Math.floor(count * 10 + 0.5);
    if (tenths < 10240 || unit === UNITS.at(-1)) {
      return `${tenths / 10}\u00a0${unit}`;
    }
  }
}
