// The time slider: dragging updates the text, and releasing opens the list as of that point.
// The handle moves along the time axis of the histogram; inside a bar, it moves along its events.
import { timeText, zone } from "./zone.js";

const STEPS_PER_BAR = 100;

function sequenceAt(range) {
  const times = JSON.parse(range.dataset.times);
  const last = Number(range.dataset.last);
  const position = Number(range.value) / STEPS_PER_BAR;
  const bar = Math.min(times.length - 1, Math.floor(position));
  const end = bar + 1 < times.length ? times[bar + 1][0] : last;
  return { sequence: Math.round(times[bar][0] + (position - bar) * (end - times[bar][0])), time: times[bar][1], last };
}

function describe({ sequence, time, last }) {
  if (sequence >= last) return "latest";
  return `sequence ${sequence.toLocaleString("en-US")}, after ${timeText(new Date(time))} ${zone}`;
}

export function startSlider() {
  const range = document.getElementById("slider-range");
  if (!range) return;
  const text = document.getElementById("slider-text");
  const field = document.getElementById("slider-at");
  const show = () => {
    text.textContent = describe(sequenceAt(range));
    range.setAttribute("aria-valuetext", text.textContent);
  };
  range.addEventListener("input", show);
  range.addEventListener("change", () => {
    const { sequence, last } = sequenceAt(range);
    field.value = sequence >= last ? "" : sequence;
    document.getElementById("slider-form").requestSubmit();
  });
  show();
}
