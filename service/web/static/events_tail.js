// The live tail of events. The browser's EventSource resumes after the last event; a fixed number of rows is kept.
//
//   live ──pause, or the reader scrolled away──► paused: new events are held, the oldest of them dropped
//     ▲  ──tab hidden──► closed, resumed after the last cursor when the tab is visible again
//     └──resume── paused
import { clock, timeText, urlInZone, zone } from "./zone.js";

const ANNOUNCE_MILLISECONDS = 10000;
const NEAR_TOP_PIXELS = 160;
const element = (id) => document.getElementById(id);

let tail;
let rows;
let source = null;
let cursor = "";
let sequence = 0;
let isPaused = false;
let held = [];
let dropped = 0;
let skipped = 0;
let announced = 0;
let announcedAt = Date.now();

function show(state, text) {
  element("tail-status").dataset.state = state;
  element("tail-text").textContent = text;
}

function showFacts() {
  element("tail-dropped").textContent = `dropped from view: ${dropped.toLocaleString("en-US")}`;
  element("tail-skipped").textContent = `sequences not shown: ${skipped.toLocaleString("en-US")}`;
  const button = element("tail-new");
  button.hidden = !held.length;
  button.textContent = held.length === 1 ? "1 new event: show" : `${held.length} new events: show`;
  if (isPaused) show("paused", held.length ? `paused, ${held.length} new` : "paused");
  else if (source?.readyState === EventSource.OPEN) show("live", `live, sequence ${sequence.toLocaleString("en-US")}`);
}

function announce(count) {
  announced += count;
  if (isPaused || Date.now() - announcedAt < ANNOUNCE_MILLISECONDS) return;
  announcedAt = Date.now();
  element("tail-log").textContent = announced === 1 ? "1 new event" : `${announced} new events`;
  announced = 0;
}

function rowOf({ text, event }) {
  const row = element("event-template").content.firstElementChild.cloneNode(true);
  const cell = (name) => row.querySelector(name);
  const number = event.sequence;
  row.id = `e-${number}`;
  row.className = "changed";
  const link = cell(".num a");
  link.textContent = number;
  const page = new URL(tail.dataset.page, location);
  page.searchParams.set("after", String(BigInt(number) - 1n));
  link.href = urlInZone(page);
  const time = cell("time");
  time.dateTime = event.streamtime;
  time.textContent = timeText(new Date(event.streamtime));
  time.title = `${time.textContent} ${zone}`;
  cell(".kind").textContent = event.type.split(".")[2];
  const job = cell(".name a");
  job.textContent = job.title = event.name;
  job.href = urlInZone(tail.dataset.jobs + encodeURIComponent(event.subject));
  const state = event.data?.State?.StateType;
  if (state) {
    const badge = document.createElement("span");
    badge.className = `state state-${state.toLowerCase()}`;
    badge.textContent = state;
    cell(".state-cell").append(badge);
  }
  cell(".actor").textContent = event.actor ?? "";
  cell(".reason-text").textContent = cell(".reason-text").title = event.reason ?? "";
  cell("pre").textContent = text;
  return row;
}

function addRows(events) {
  element("tail-empty")?.remove();
  rows.prepend(...events.map(rowOf).reverse());
  const most = Number(tail.dataset.rows);
  while (rows.childElementCount > most) {
    rows.lastElementChild.remove();
    dropped += 1;
  }
}

function release() {
  const events = held;
  held = [];
  addRows(events);
  showFacts();
}

function isReading() {
  return window.scrollY > NEAR_TOP_PIXELS || rows.querySelector("details[open]") != null;
}

function onEvent(message) {
  const event = JSON.parse(message.data);
  const number = Number(event.sequence);
  cursor = message.lastEventId;
  if (sequence && number <= sequence) return; // resumed a little earlier
  if (sequence) skipped += number - sequence - 1;
  sequence = number;
  held.push({ text: message.data, event });
  if (held.length > Number(tail.dataset.rows)) {
    held.shift();
    dropped += 1;
  }
  if (!isPaused && !isReading()) release();
  else showFacts();
  announce(1);
}

function onError() {
  if (source.readyState === EventSource.CLOSED) {
    // A refusal: the browser does not try again. What follows this cursor is unknown.
    show("signed-out", "stopped: reload the page");
    element("tail-gap").textContent = `gap: unknown after sequence ${sequence}`;
  } else {
    show("reconnecting", `reconnecting since ${clock()}`);
  }
}

function connect() {
  const url = new URL(tail.dataset.feed, location);
  if (cursor) url.searchParams.set("after", cursor);
  source = new EventSource(url);
  source.onopen = showFacts;
  source.onerror = onError;
  for (const type of tail.dataset.types.split(" ")) source.addEventListener(type, onEvent);
  source.addEventListener("close", (message) => { cursor = message.lastEventId || cursor; });
}

function pause() {
  isPaused = !isPaused;
  const button = element("live-pause");
  button.setAttribute("aria-pressed", String(isPaused));
  button.textContent = isPaused ? "Resume" : "Pause";
  element("tail-log").setAttribute("aria-live", isPaused ? "off" : "polite");
  if (isPaused) showFacts();
  else release();
}

function clear() {
  rows.replaceChildren();
  held = [];
  dropped = skipped = 0;
  showFacts();
}

function wrap(event) {
  const isWrapped = tail.classList.toggle("wrapped");
  event.target.setAttribute("aria-pressed", String(isWrapped));
}

export function start() {
  tail = element("events-tail");
  rows = element("tail-rows");
  if (!tail.dataset.feed) return;
  cursor = tail.dataset.cursor;
  sequence = Number(cursor.split("-").pop());
  element("live-pause").addEventListener("click", pause);
  element("tail-clear").addEventListener("click", clear);
  element("tail-wrap").addEventListener("click", wrap);
  element("tail-new").addEventListener("click", release);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source.close();
    else if (source.readyState === EventSource.CLOSED) connect();
  });
  connect();
}
