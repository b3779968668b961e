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

// Callers who may not see the log as a whole have a slider of times.
function timeAt(range) {
  const { start, end } = range.dataset;
  const part = Number(range.value) / Number(range.max);
  return part >= 1 ? null : new Date(Math.round(Number(start) + part * (Number(end) - Number(start))));
}

function textAt(range) {
  if (range.dataset.times) return describe(sequenceAt(range));
  const time = timeAt(range);
  return time === null ? "latest" : `${timeText(time)} ${zone}`;
}

function pointAt(range) {
  if (!range.dataset.times) {
    const time = timeAt(range);
    return time === null || time > Date.now() ? "" : time.toISOString();
  }
  const { sequence, last } = sequenceAt(range);
  return sequence >= last ? "" : sequence;
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
    text.textContent = textAt(range);
    range.setAttribute("aria-valuetext", text.textContent);
  };
  range.addEventListener("input", show);
  range.addEventListener("change", () => {
    field.value = pointAt(range);
    document.getElementById("slider-form").requestSubmit();
  });
  show();
}
