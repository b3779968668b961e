// The time zone of the page: of its URL, or UTC. The server renders times in it, and so do scripts.
// A browser may not know a zone that the server knows: then scripts show UTC, and say so.
const named = document.documentElement.dataset.zone ?? "UTC";
const format = formatOf(named) ?? formatOf("UTC");
export const zone = format.resolvedOptions().timeZone === "UTC" ? "UTC" : named;

function formatOf(timeZone) {
  try {
    // Sweden's format of dates is the one of ISO 8601.
    return new Intl.DateTimeFormat("sv-SE", { timeZone, dateStyle: "short", timeStyle: "medium" });
  } catch {
    return null;
  }
}

export function timeText(date) {
  return format.format(date);
}

export function clock(date = new Date()) {
  return `${timeText(date).slice(11)} ${zone}`;
}

// The page in a zone; links that scripts make keep the one of the page.
export function urlInZone(url, name = zone) {
  const found = new URL(url, location);
  if (name === "UTC") found.searchParams.delete("tz");
  else found.searchParams.set("tz", name);
  return found.pathname + found.search + found.hash;
}

export function startZone() {
  const local = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const link = document.getElementById("zone-local");
  if (!link || !local || local === zone || local === "UTC") return;
  link.href = urlInZone(location, local);
  link.textContent = local;
  link.hidden = false;
}
