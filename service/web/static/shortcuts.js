// Keys, listed in the dialog that "?" opens. None of them changes a job, and all can be turned off.
import { urlInZone } from "./zone.js";

const SETTING = "jobledger.shortcuts";
let row = -1;
let previous = "";

function rows() {
  return [...document.querySelectorAll("#job-rows tr, [data-rows] > *")];
}

function move(step) {
  const all = rows();
  if (!all.length) return;
  row = Math.min(all.length - 1, Math.max(0, row + step));
  for (const each of all) each.classList.toggle("cursor", each === all[row]);
  all[row].scrollIntoView({ block: "nearest" });
  all[row].querySelector("a")?.focus({ preventScroll: true });
}

function isTyping(element) {
  return element.closest?.('input:not([type="checkbox"]), textarea, select, [contenteditable], .cm-editor') != null;
}

function toggleHelp() {
  const help = document.getElementById("help");
  if (help.open) help.close();
  else help.showModal();
}

const KEYS = {
  "/": () => document.getElementById("search")?.select(),
  "?": toggleHelp,
  j: () => move(1),
  k: () => move(-1),
  x: () => rows()[row]?.querySelector('input[type="checkbox"]')?.click(),
  p: () => document.getElementById("live-pause")?.click(),
};

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  if (localStorage.getItem(SETTING) === "off" && event.key !== "?") return;
  if (previous === "g" && event.key === "j") {
    previous = "";
    location.assign(urlInZone("/ui/"));
    return;
  }
  previous = event.key;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

export function startShortcuts() {
  const box = document.getElementById("shortcuts-on");
  box.checked = localStorage.getItem(SETTING) !== "off";
  box.addEventListener("change", () => localStorage.setItem(SETTING, box.checked ? "on" : "off"));
  document.getElementById("help-button").addEventListener("click", toggleHelp);
  document.addEventListener("keydown", press);
}
