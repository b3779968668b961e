// Ages such as "5 m", kept current; the exact time stays in the title and the datetime of the element.
const UNITS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

export function age(seconds) {
  const [size, unit] = UNITS.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
}

export function refreshAges(root = document) {
  const now = Date.now();
  for (const element of root.querySelectorAll("time[data-age]")) {
    const text = age(Math.max(0, (now - Date.parse(element.dateTime)) / 1000));
    if (element.textContent !== text) element.textContent = text;
  }
}

export function startAges() {
  setInterval(refreshAges, 1000);
}
