// Formats numbers; rendering.py formats them the same way.

/** Formats a duration in its two largest units, such as 2 h 5 min, and a short one in ms. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds > 0 && seconds < 0.0995) return `${(1000 * seconds).toFixed(0)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [unit, name, small, smallName] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole < unit) continue;
    const rest = Math.floor((whole % unit) / small);
    return `${Math.floor(whole / unit)} ${name}${rest ? ` ${rest} ${smallName}` : ""}`;
  }
  return `${whole} s`;
}

export function size(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000) return `${Number(bytes.toPrecision(3))} ${unit}`;
    bytes /= 1000;
  }
  return `${Number(bytes.toPrecision(3))} TB`;
}

export function figure(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const short = Number(value.toPrecision(digits));
  return short && Math.abs(short) < 1e-4 ? short.toExponential() : String(short);
}
