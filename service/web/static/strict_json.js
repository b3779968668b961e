// A strict JSON reader for proofs: every number is an integer, as a BigInt (times in nanoseconds exceed 2^53), a key
// occurs once, and nothing follows the value. The nesting is limited; a bundle has four levels.
const MAX_DEPTH = 32;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+|[eE][+-]?[0-9]+)*/y;
const SPACE = /[ \t\n\r]*/y;

export class Invalid extends Error {}

class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found;
  }

  fail(what) {
    throw new Invalid(`the bundle is not a JSON document: ${what} at character ${this.at + 1}`);
  }

  expect(character) {
    this.take(SPACE);
    if (this.text[this.at] !== character) this.fail(`"${character}" is missing`);
    this.at += 1;
  }

  next() {
    this.take(SPACE);
    return this.text[this.at];
  }

  value(depth) {
    if (depth > MAX_DEPTH) this.fail("it is nested too deeply");
    const first = this.next();
    if (first === "{") return this.object(depth);
    if (first === "[") return this.array(depth);
    if (first === '"') return this.string();
    for (const [word, value] of [["true", true], ["false", false], ["null", null]]) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  number() {
    const found = this.take(NUMBER);
    if (!found) this.fail("there is no value");
    if (found[1]) this.fail(`${found[0].slice(0, 40)} is not an integer,`);
    return BigInt(found[0]);
  }

  string() {
    const start = this.at;
    let end = start + 1;
    while (this.text[end] !== '"') {
      if (!(this.text.charCodeAt(end) >= 32)) this.fail("a text is not valid");
      end += this.text[end] === "\\" ? 2 : 1;
    }
    this.at = end + 1;
    const text = this.text.slice(start, this.at);
    if (!text.includes("\\")) return text.slice(1, -1);
    try {
      return JSON.parse(text);
    } catch {
      return this.fail("a text has an unknown escape");
    }
  }

  object(depth) {
    const found = new Map();
    this.expect("{");
    if (this.next() !== "}") {
      do {
        if (this.next() !== '"') this.fail("a key is missing");
        const key = this.string();
        if (found.has(key)) this.fail(`the key "${key.slice(0, 60)}" occurs twice,`);
        this.expect(":");
        found.set(key, this.value(depth + 1));
      } while (this.next() === "," && ++this.at);
    }
    this.expect("}");
    return found;
  }

  array(depth) {
    const found = [];
    this.expect("[");
    if (this.next() !== "]") {
      do found.push(this.value(depth + 1));
      while (this.next() === "," && ++this.at);
    }
    this.expect("]");
    return found;
  }
}

// Objects become Maps, so that no key has a meaning of its own.
export function readJson(bytes) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Invalid("the bundle is not a JSON document: it is not UTF-8");
  }
  const reader = new Reader(text);
  const value = reader.value(0);
  if (reader.next() !== undefined) reader.fail("something follows the document");
  return value;
}
