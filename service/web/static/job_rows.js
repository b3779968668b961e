// The live table of jobs. Rows that are shown are patched in place and keep their position, selection and focus;
// rows that are new wait behind "3 new jobs: show", unless the reader is at the top and is not using the table.
import { refreshAges } from "./ages.js";
import { selectedBoxes, showSelection } from "./selection.js";

let pending = null;

function isReading(element) {
  const isAtTop = window.scrollY < 120;
  return !isAtTop || selectedBoxes().length > 0 || element.querySelector("#jobs-table:hover, tr.cursor, :focus") != null;
}

function patchRow(old, fresh) {
  const box = old.querySelector('input[name="job"]');
  const freshBox = fresh.querySelector('input[name="job"]');
  if (box && freshBox) freshBox.checked = box.checked;
  const hadFocus = old.contains(document.activeElement) ? document.activeElement.tagName : "";
  if (old.classList.contains("cursor")) fresh.classList.add("cursor");
  fresh.classList.toggle("changed", old.dataset.revision !== fresh.dataset.revision);
  old.replaceWith(fresh);
  if (hadFocus) fresh.querySelector(hadFocus)?.focus({ preventScroll: true });
}

function showAll(element) {
  const fresh = pending;
  pending = null;
  const checked = new Set(selectedBoxes().map((box) => box.value));
  element.replaceChildren(...fresh.childNodes);
  for (const box of element.querySelectorAll('input[name="job"]')) box.checked = checked.has(box.value);
  showSelection();
  refreshAges(element);
}

function mergeRows(element, fresh) {
  const rows = new Map([...fresh.querySelectorAll("#job-rows > tr")].map((row) => [row.id, row]));
  for (const old of [...element.querySelectorAll("#job-rows > tr")]) {
    const row = rows.get(old.id);
    if (row) {
      rows.delete(old.id);
      patchRow(old, row.cloneNode(true));
    } else {
      old.classList.add("gone");
      old.title = "No longer on this page of the list";
    }
  }
  const counts = element.querySelector("#counts");
  const freshCounts = fresh.querySelector("#counts");
  if (counts && freshCounts) counts.replaceWith(freshCounts.cloneNode(true));
  const button = element.querySelector("#new-rows");
  button.hidden = rows.size === 0;
  button.textContent = rows.size === 1 ? "1 new job: show" : `${rows.size} new jobs: show`;
  button.onclick = () => showAll(element);
  refreshAges(element);
}

export async function refreshJobs(element, changed, signedOut) {
  const answer = await fetch(element.dataset.url, { headers: { "HX-Request": "true" } });
  if (answer.status === 401 || answer.status === 403) signedOut();
  if (!answer.ok) return answer.status;
  const fresh = new DOMParser().parseFromString(`<div>${await answer.text()}</div>`, "text/html").body.firstChild;
  pending = fresh;
  if (isReading(element)) {
    mergeRows(element, fresh);
  } else {
    const before = new Map([...element.querySelectorAll("#job-rows > tr")].map((row) => [row.id, row.dataset.revision]));
    showAll(element);
    for (const row of element.querySelectorAll("#job-rows > tr")) {
      if (before.get(row.id) !== row.dataset.revision) row.classList.add("changed");
    }
  }
  return answer.status;
}
