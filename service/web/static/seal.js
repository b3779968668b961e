// Seals (C2SP tlog-checkpoint in a C2SP signed note, Ed25519) and Merkle proofs (RFC 9162), verified with WebCrypto.
// Works without a page, so that it is tested outside of a browser; docs/AUDIT.md describes every format.
export class NotProven extends Error {}

const MAX_SIZE = 2n ** 63n - 1n;
const NOTE_MAX_BYTES = 65536;
const NOTE_MAX_SIGNATURES = 100;
const NOT_IN_NAMES = /[\p{C}\p{Z}+]/u;

export const utf8 = (text) => new TextEncoder().encode(text);
export const hex = (bytes) => [...bytes].map((each) => each.toString(16).padStart(2, "0")).join("");
export const isEqual = (one, other) => one.length === other.length && one.every((each, index) => each === other[index]);

export function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", joined(...parts)));
}

// The bytes of canonical base64 (RFC 4648); null for any other spelling.
export function fromBase64(text) {
  let decoded;
  try {
    decoded = atob(text);
  } catch {
    return null;
  }
  if (btoa(decoded) !== text) return null;
  return Uint8Array.from(decoded, (each) => each.charCodeAt(0));
}

// --- keys

export async function readKey(text) {
  const trimmed = text.trim();
  const plus = trimmed.indexOf("+");
  const [id, ...encoded] = trimmed.slice(plus + 1).split("+");
  const name = trimmed.slice(0, Math.max(0, plus));
  const kindAndKey = fromBase64(encoded.join("+"));
  if (plus < 1 || !kindAndKey || kindAndKey.length !== 33 || kindAndKey[0] !== 1 || NOT_IN_NAMES.test(name)) {
    throw new NotProven(`"${trimmed.slice(0, 120)}" is not a verifier key: paste the output of "jobledger audit key show"`);
  }
  const found = hex((await sha256(utf8(`${name}\n`), kindAndKey)).slice(0, 4));
  if (found !== id) throw new NotProven(`the key "${trimmed.slice(0, 120)}" does not match its id ${found}: it contains a typo`);
  return { name, id, short: `${name}+${id}`, public: kindAndKey.slice(1), text: trimmed };
}

export async function readKeys(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
  return Promise.all(lines.map(readKey));
}

async function isSigned(key, signature, message) {
  try {
    const imported = await crypto.subtle.importKey("raw", key.public, "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify("Ed25519", imported, signature, message);
  } catch (error) {
    if (error.name === "NotSupportedError") throw new NotProven("this browser has no Ed25519");
    return false;
  }
}

// --- signed notes

function readSignature(line) {
  const parts = line.split(" ");
  const decoded = fromBase64(parts.at(-1));
  if (parts.length !== 3 || parts[0] !== "\u2014" || !decoded || decoded.length <= 4 || !parts[1] || NOT_IN_NAMES.test(parts[1])) {
    throw new NotProven(`the seal is not a signed note: "${line.slice(0, 120)}" is not a signature line`);
  }
  return { name: parts[1], id: hex(decoded.slice(0, 4)), signature: decoded.slice(4) };
}

function readNote(note) {
  if (utf8(note).length > NOTE_MAX_BYTES) throw new NotProven("the seal is too long");
  if (/[\u0000-\u0009\u000b-\u001f]/.test(note)) throw new NotProven("the seal is not a signed note: it contains control characters");
  const at = note.lastIndexOf("\n\n");
  const lines = note.slice(at + 2).split("\n");
  if (at < 1 || lines.pop() !== "" || !lines.length) {
    throw new NotProven("the seal is not a signed note: it must have a text, an empty line, and signature lines");
  }
  if (lines.length > NOTE_MAX_SIGNATURES) throw new NotProven(`the seal has more than ${NOTE_MAX_SIGNATURES} signatures`);
  return { text: note.slice(0, at + 1), signatures: lines.map(readSignature) };
}

async function signersOf(note, keys) {
  const message = utf8(note.text);
  const signers = [];
  for (const each of note.signatures) {
    const key = keys.find((key) => key.name === each.name && key.id === each.id);
    if (!key || signers.includes(key)) continue;
    if (!(await isSigned(key, each.signature, message))) throw new NotProven(`the signature by ${key.short} is wrong for this text`);
    signers.push(key);
  }
  if (!signers.length) {
    const named = note.signatures.map((each) => `${each.name}+${each.id}`).join(", ");
    throw new NotProven(`none of the keys above signed this seal; its signers: ${named.slice(0, 300)}`);
  }
  return signers;
}

// A seal that one of the keys signed: its origin, its size in events, and the root of the tree over them.
export async function openSeal(text, keys) {
  const note = readNote(text);
  const signers = await signersOf(note, keys);
  const lines = note.text.slice(0, -1).split("\n");
  if (lines.length < 3 || lines.some((line) => !line)) throw new NotProven("the note is not a seal: it must have lines with origin, size and root");
  const [origin, size, root] = lines;
  const decoded = root.length === 44 ? fromBase64(root) : null;
  if (!/^(0|[1-9][0-9]{0,18})$/.test(size) || BigInt(size) > MAX_SIZE) throw new NotProven(`the note is not a seal: "${size.slice(0, 80)}" is not a size`);
  if (!decoded || decoded.length !== 32) throw new NotProven(`the note is not a seal: "${root.slice(0, 80)}" is not a root`);
  return { origin, size: BigInt(size), root: decoded, signers };
}

// --- the tree

function bytesOf(number, length) {
  const found = new Uint8Array(length);
  for (let at = length - 1, rest = number; at >= 0; at -= 1, rest >>= 8n) found[at] = Number(rest & 255n);
  return found;
}

const nodeHash = (left, right) => sha256([1], left, right);

export async function leafHash(record) {
  const subject = utf8(record.subject);
  const head = joined(bytesOf(record.sequence, 8), bytesOf(record.time, 8), bytesOf(BigInt(subject.length), 2));
  return sha256([0], head, subject, record.payload);
}

function* siblings(position, last, proof) {
  for (const sibling of proof) {
    if (last === 0n) throw new NotProven(`its path has ${proof.length} hashes, more than there are up to the root`);
    const isLeft = position % 2n === 1n || position === last;
    while (isLeft && position % 2n === 0n && position > 0n) [position, last] = [position / 2n, last / 2n];
    [position, last] = [position / 2n, last / 2n];
    yield [sibling, isLeft];
  }
  if (last) throw new NotProven(`its path has ${proof.length} hashes, fewer than there are up to the root`);
}

// The root that a leaf and its path lead to.
export async function rootOf(leaf, index, size, proof) {
  if (index < 0n || index >= size) throw new NotProven(`leaf ${index} is not in a tree of ${size} leaves`);
  let found = leaf;
  for (const [sibling, isLeft] of siblings(index, size - 1n, proof)) {
    found = isLeft ? await nodeHash(sibling, found) : await nodeHash(found, sibling);
  }
  return found;
}

// Whether the tree of one seal is the beginning of that of another (RFC 9162, section 2.1.4.2).
export async function isExtension(old, fresh, proof) {
  if (old.size > fresh.size) throw new NotProven(`the first seal covers ${old.size} events and the second ${fresh.size}: the older one comes first`);
  if (old.size === 0n) return !proof.length && isEqual(old.root, await sha256());
  if (old.size === fresh.size) return !proof.length && isEqual(old.root, fresh.root);
  const path = (old.size & (old.size - 1n)) === 0n ? [old.root, ...proof] : [...proof];
  if (!path.length) return false;
  let [position, last] = [old.size - 1n, fresh.size - 1n];
  while (position % 2n === 1n) [position, last] = [position / 2n, last / 2n];
  let before = path[0];
  let after = path[0];
  for (const [sibling, isLeft] of siblings(position, last, path.slice(1))) {
    if (isLeft) before = await nodeHash(sibling, before);
    after = isLeft ? await nodeHash(sibling, after) : await nodeHash(after, sibling);
  }
  return isEqual(before, old.root) && isEqual(after, fresh.root);
}
