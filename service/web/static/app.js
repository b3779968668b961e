// Starts the scripts of a page. Each module looks for its own elements; pages work without any of them.
import { startAges } from "./ages.js";
import { startCopy } from "./copy.js";
import { startLive } from "./live.js";
import { startSelection } from "./selection.js";
import { startShortcuts } from "./shortcuts.js";
import { startSlider } from "./slider.js";
import { startSpecEditor } from "./spec_editor.js";
import { startZone } from "./zone.js";

// Scripts of single pages, which their elements name; other pages do not load them.
const MODULES = ["proof", "events_tail", "consistency", "api_forms"];

document.documentElement.classList.add("js");
startZone();
startAges();
startSelection();
startShortcuts();
startCopy();
startSlider();
startSpecEditor();
startLive();
for (const { dataset } of document.querySelectorAll("[data-module]")) {
  if (MODULES.includes(dataset.module)) import(`./${dataset.module}.js`).then(({ start }) => start());
}
