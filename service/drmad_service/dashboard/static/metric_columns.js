// The columns of metrics that the reader chose last. The address of the list has them; links to the list
// from other pages get them from this browser.
const KEPT = "drmad-metric-columns";

/** Keeps the metrics of an address of the list. */
export function keepMetrics(address) {
  localStorage.setItem(KEPT, JSON.stringify(new URL(address, location).searchParams.getAll("metric")));
}

/** Adds the kept metrics to a link to the list. */
export function addMetrics(link) {
  const address = new URL(link.href);
  for (const name of JSON.parse(localStorage.getItem(KEPT) ?? "[]")) address.searchParams.append("metric", name);
  link.href = address;
}
