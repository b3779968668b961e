// Starts the scripts of a page. Each module looks for its own elements; pages work without any of them.
import { startAges } from "./ages.js";
import { startCopy } from "./copy.js";
import { startLive } from "./live.js";
import { startSelection } from "./selection.js";
import { startShortcuts } from "./shortcuts.js";
import { startSlider } from "./slider.js";
import { startSpecEditor } from "./spec_editor.js";

// Scripts of single pages, by the id of the element that they look for; other pages do not load them.
const PAGES = { proof: "./proof.js", "events-tail": "./events_tail.js", consistency: "./consistency.js" };

document.documentElement.classList.add("js");
startAges();
startSelection();
startShortcuts();
startCopy();
startSlider();
startSpecEditor();
startLive();
for (const [id, module] of Object.entries(PAGES)) {
  if (document.getElementById(id)) import(module).then(({ start }) => start());
}
