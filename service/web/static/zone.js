// The time zone of the page: of its URL, or UTC. The server renders times in it, and so do scripts.
export const zone = document.documentElement.dataset.zone ?? "UTC";

// Sweden's format of dates is the one of ISO 8601.
const FORMAT = new Intl.DateTimeFormat("sv-SE", { timeZone: zone, dateStyle: "short", timeStyle: "medium" });

export function timeText(date) {
  return FORMAT.format(date);
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
