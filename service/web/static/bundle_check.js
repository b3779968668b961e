// Verifies a proof bundle as `jobledger audit check` does: the same checks, by another implementation.
// Works without a page, so that it is tested outside of a browser; docs/AUDIT.md describes every step.
import { NotProven, fromBase64, hex, isEqual, leafHash, openSeal, rootOf, sha256, utf8 } from "./seal.js";
import { Invalid, readJson } from "./strict_json.js";

export { Invalid };
const MAX_BYTES = 64 * 1048576;
const MAX_RECORDS = 10000;
const MAX_HASHES = 63;
const MAX_CHARACTERS = 16384;
const MAX_INTEGER = 2n ** 63n - 1n;
const BUNDLE_KEYS = ["format", "version", "origin", "namespace", "job", "seal", "records"];
const RECORD_KEYS = ["sequence", "time", "subject", "payload", "leaf", "proof"];
const PLAIN = new Set(utf8("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!\"#$&'()+,-/:;<=?@[\\]^_`{|}~"));
const CREATED = "jobledger.job.created.v1";
const RAISES_REVISION = new Set(["jobledger.job.updated.v1", "jobledger.job.state.v1"]);
const TYPES = new Set([CREATED, ...RAISES_REVISION, "jobledger.job.tagged.v1", "jobledger.job.accepted.v1"]);

// --- the document

function need(holds, what) {
  if (!holds) throw new Invalid(`the file is not a proof bundle of version 1: ${what}`);
}

function fieldsOf(value, keys, what) {
  need(value instanceof Map, `${what} must be an object`);
  for (const key of keys) need(value.has(key), `${what} has no ${key}`);
  for (const key of value.keys()) need(keys.includes(key), `${what} has the unknown key "${key.slice(0, 60)}"`);
  return Object.fromEntries(value);
}

function textOf(value, what) {
  need(typeof value === "string" && value.isWellFormed(), `${what} must be text`);
  const length = [...value].length;
  need(length >= 1 && length <= MAX_CHARACTERS, `${what} must have 1 to ${MAX_CHARACTERS} characters`);
  return value;
}

function integerOf(value, least, what) {
  need(typeof value === "bigint" && value >= least && value <= MAX_INTEGER, `${what} must be an integer from ${least}`);
  return value;
}

function bytesOf(value, what, length = -1) {
  const decoded = typeof value === "string" ? fromBase64(value) : null;
  need(decoded && (length < 0 || decoded.length === length), `${what} must be canonical base64${length < 0 ? "" : ` of ${length} bytes`}`);
  return decoded;
}

function recordOf(value, number) {
  const what = (key) => `${key} of record ${number + 1}`;
  const found = fieldsOf(value, RECORD_KEYS, `record ${number + 1}`);
  need(Array.isArray(found.proof) && found.proof.length <= MAX_HASHES, what("proof"));
  return {
    sequence: integerOf(found.sequence, 1n, what("sequence")),
    time: integerOf(found.time, 0n, what("time")),
    subject: textOf(found.subject, what("subject")),
    payload: bytesOf(found.payload, what("payload")),
    leaf: bytesOf(found.leaf, what("leaf"), 32),
    proof: found.proof.map((each) => bytesOf(each, what("proof"), 32)),
  };
}

export function readBundle(bytes) {
  need(bytes.length <= MAX_BYTES, `it has more than ${MAX_BYTES} bytes`);
  const document = readJson(bytes);
  need(document instanceof Map && document.get("format") === "jobledger-proof", "its format is another one");
  need(document.get("version") === 1n, `its version is ${String(document.get("version")).slice(0, 40)}`);
  const found = fieldsOf(document, BUNDLE_KEYS, "the bundle");
  for (const key of ["origin", "namespace", "job", "seal"]) textOf(found[key], key);
  need(Array.isArray(found.records) && found.records.length >= 1 && found.records.length <= MAX_RECORDS, "it has no records, or too many");
  return { ...found, records: found.records.map(recordOf) };
}

// --- the checks

const passed = (name, text, more = {}) => ({ name, ok: true, text, ...more });
const failed = (name, text) => ({ name, ok: false, text });
const unchecked = (name) => failed(name, "not checked: the seal is not valid");

async function checkSeal(bundle, keys) {
  try {
    const seal = await openSeal(bundle.seal, keys);
    const signers = seal.signers.map((key) => key.short).join(", ");
    return [seal, passed("seal", `signed by ${signers}; it covers ${seal.size} events`)];
  } catch (error) {
    if (!(error instanceof NotProven)) throw error;
    return [null, failed("seal", error.message)];
  }
}

function checkOrigin(bundle, seal) {
  if (!seal) return unchecked("origin");
  if (seal.origin !== bundle.origin) return failed("origin", `the bundle states the log "${bundle.origin.slice(0, 200)}", but its seal is of "${seal.origin.slice(0, 200)}"`);
  return passed("origin", `bundle and seal are of the log ${seal.origin}`);
}

function token(text) {
  return [...utf8(text)].map((byte) => (PLAIN.has(byte) ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`)).join("");
}

async function checkJob(bundle, expected) {
  if (expected && bundle.job !== expected) return failed("job", `the bundle is about the job ${bundle.job.slice(0, 200)}, expected ${expected}`);
  const shard = String((await sha256(utf8(bundle.job)))[0] % 32).padStart(2, "0");
  const subject = `jobs.${token(bundle.namespace)}.${shard}.${token(bundle.job)}`;
  const other = bundle.records.find((record) => record.subject !== subject);
  if (other) return failed("job", `event ${other.sequence} is on the subject ${other.subject.slice(0, 300)}, which is not that of the job`);
  return passed("job", `all records are on the subject of the job, ${subject}`);
}

function checkOrder(bundle, seal) {
  let before = 0n;
  for (const { sequence } of bundle.records) {
    if (sequence <= before) return failed("order", `event ${sequence} comes after event ${before}: sequences must increase`);
    before = sequence;
  }
  if (seal && before > seal.size) return failed("order", `event ${before} is beyond the seal, which covers ${seal.size} events`);
  return passed("order", `sequences increase from ${bundle.records[0].sequence} to ${before}`);
}

async function checkLeaves(bundle) {
  for (const record of bundle.records) {
    const leaf = await leafHash(record);
    if (!isEqual(leaf, record.leaf)) return failed("leaf", `event ${record.sequence} has the hash ${hex(leaf)}, but the bundle states ${hex(record.leaf)}`);
  }
  return passed("leaf", `${bundle.records.length} of ${bundle.records.length} events have the hash that the bundle states`);
}

async function checkInclusion(bundle, seal) {
  if (!seal) return unchecked("inclusion");
  for (const record of bundle.records) {
    try {
      const root = await rootOf(record.leaf, record.sequence - 1n, seal.size, record.proof);
      if (!isEqual(root, seal.root)) return failed("inclusion", `the path of event ${record.sequence} leads to the root ${hex(root)}, but the sealed one is ${hex(seal.root)}`);
    } catch (error) {
      if (!(error instanceof NotProven)) throw error;
      return failed("inclusion", `event ${record.sequence} is not in the sealed tree: ${error.message}`);
    }
  }
  return passed("inclusion", `the path of every event leads to the sealed root ${hex(seal.root)}`);
}

function eventOf(record, bundle) {
  try {
    const event = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(record.payload));
    return TYPES.has(event?.type) && event.subject === bundle.job && event.namespace === bundle.namespace ? event : null;
  } catch {
    return null;
  }
}

function predecessorOf(event) {
  const previous = event?.previous ?? (event ? "" : null);
  if (previous === "") return 0n;
  return typeof previous === "string" && /^[1-9][0-9]{0,18}$/.test(previous) ? BigInt(previous) : null;
}

// What the events say, without deciding whether each was allowed: `jobledger audit check` replays them as well.
function checkLinks(bundle) {
  const story = { revision: 0, state: "", name: "", unlinked: 0, events: [] };
  let before = 0n;
  for (const record of bundle.records) {
    const event = eventOf(record, bundle);
    const named = predecessorOf(event);
    story.events.push(event);
    if (named === null || (named === 0n && before)) story.unlinked += 1;
    else if (named !== before) return [story, failed("links", `event ${record.sequence} names event ${named} as its predecessor, but the record before it is ${before}: events were omitted`)];
    if (event?.type === CREATED && !story.revision) Object.assign(story, { revision: 1, state: "Pending", name: event.name ?? "" });
    else if (RAISES_REVISION.has(event?.type) && story.revision) {
      story.revision += 1;
      story.state = event.data?.State?.StateType ?? "Pending";
    }
    before = record.sequence;
  }
  if (!story.revision) return [story, failed("links", "no record creates the job")];
  const open = story.unlinked ? `; ${story.unlinked} of them name no predecessor, so it does not show whether one was omitted before them` : "";
  return [story, passed("links", `each of the ${bundle.records.length} events names the one before it${open}`)];
}

// Returns what a bundle proves with these keys; throws Invalid if the file is not a bundle.
export async function checkBundle(bytes, keys, expectedJob = "") {
  const bundle = readBundle(bytes);
  const [seal, sealCheck] = await checkSeal(bundle, keys);
  const [story, links] = checkLinks(bundle);
  const checks = [
    sealCheck,
    checkOrigin(bundle, seal),
    await checkJob(bundle, expectedJob),
    checkOrder(bundle, seal),
    await checkLeaves(bundle),
    await checkInclusion(bundle, seal),
    links,
  ];
  return { ok: checks.every((check) => check.ok), checks, bundle, seal, story };
}
