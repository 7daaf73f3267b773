// Percentiles, medians and how figures are written. Pure.

/** The value below which a share of the sorted values lies. */
export function percentile(sorted, share) {
  if (sorted.length === 0) return NaN;
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)];
}

/** The middle one; the upper of two. */
export function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

/** As many digits as a figure has something to say with. */
export function figure(value) {
  if (value === undefined || Number.isNaN(value)) return "-";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.1) return value.toFixed(3);
  if (size < 10) return value.toFixed(2);
  if (size < 1000) return value.toFixed(1);
  return Math.round(value).toLocaleString("en-US");
}

/** How many times as large, in two digits. */
export function ratio(value, base) {
  if (!(base > 0) || value === undefined || Number.isNaN(value)) return "-";
  const times = value / base;
  return times >= 100 ? `${Math.round(times)}x` : `${Number(times.toPrecision(2))}x`;
}
