// The JSON scanner against JSON.parse: the same values where both accept, and refusals where JSON.parse would hide
// something (names given twice, rounded integers) or is not bounded.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import fc from "fast-check";
import { type JsonFault, JsonScanner, parseJsonDocument } from "../../../core/formats/json-scan.ts";
import { JSON_LIMITS } from "../../../core/limits.ts";

class Refusal extends Error {
  readonly fault: JsonFault;
  constructor(fault: JsonFault) {
    super(fault.kind);
    this.fault = fault;
  }
}

const refuse = (fault: JsonFault) => new Refusal(fault);

function parse(text: string | Uint8Array, pythonNumbers = false): unknown {
  return parseJsonDocument(typeof text === "string" ? new TextEncoder().encode(text) : text, { refuse, pythonNumbers });
}

function faultOf(work: () => unknown): JsonFault {
  try {
    work();
  } catch (error) {
    if (error instanceof Refusal) return error.fault;
    throw error;
  }
  throw new Error("nothing was refused");
}

suite("the JSON scanner", () => {
  test("gives the values of JSON.parse", () => {
    fc.assert(
      fc.property(fc.json(), fc.constantFrom(0, 2), (text, indent) => {
        const spaced = JSON.stringify(JSON.parse(text), null, indent);
        assert.deepEqual(parse(spaced), JSON.parse(spaced));
      }),
      { seed: 7, numRuns: 500 },
    );
  });

  test("refuses what JSON.parse refuses", () => {
    fc.assert(
      fc.property(fc.json(), fc.nat(), fc.constantFrom(...'{}[]",:x0.e-\\ \u0000'), (text, at, character) => {
        const place = at % (text.length + 1);
        const mutated = text.slice(0, place) + character + text.slice(place + 1);
        let accepted = true;
        try {
          JSON.parse(mutated);
        } catch {
          accepted = false;
        }
        if (accepted) return;
        assert.throws(() => parse(mutated), Refusal, mutated);
      }),
      { seed: 8, numRuns: 2000 },
    );
  });

  test("keeps __proto__ and constructor as ordinary names", () => {
    const value = parse('{"__proto__": {"polluted": true}, "constructor": 1}');
    assert.ok(typeof value === "object" && value !== null);
    assert.deepEqual(Object.keys(value), ["__proto__", "constructor"]);
    assert.equal(Object.getPrototypeOf(value), Object.prototype);
    assert.equal(Reflect.get({}, "polluted"), undefined);
  });

  test("refuses a name given twice at any level", () => {
    for (const text of ['{"a":1,"a":1}', '{"x":[{"a":1,"b":2,"\\u0061":3}]}']) {
      assert.equal(faultOf(() => parse(text)).kind, "repeated-name");
    }
  });

  test("says where a fault is, in bytes", () => {
    assert.equal(faultOf(() => parse('{"é✓😀": x}')).offset, 14);
    assert.equal(faultOf(() => parse("[1,2")).offset, 4);
  });

  test("refuses faults of form by their kind", () => {
    const cases: readonly (readonly [string, JsonFault["kind"]])[] = [
      ["", "syntax"],
      ["{", "syntax"],
      ['{"a":1,}', "syntax"],
      ["[1,]", "syntax"],
      ["[1 2]", "syntax"],
      ["{} {}", "syntax"],
      ["{}\u0000", "syntax"],
      ["\ufeff{}", "syntax"],
      ['"\n"', "syntax"],
      ['"\\x"', "syntax"],
      ['"\\u12g4"', "syntax"],
      ['"\\ud800"', "syntax"],
      ['"abc', "syntax"],
      ["01", "syntax"],
      ["-", "syntax"],
      ["1.", "syntax"],
      ["NaN", "syntax"],
      ["[".repeat(JSON_LIMITS.depth + 1), "depth"],
      ['{"a":'.repeat(JSON_LIMITS.depth + 1), "depth"],
    ];
    for (const [text, kind] of cases) assert.equal(faultOf(() => parse(text)).kind, kind, JSON.stringify(text));
    assert.equal(faultOf(() => parse(new Uint8Array([0x22, 0xff, 0x22]))).kind, "encoding");
  });

  test("takes nesting up to the limit", () => {
    const text = "[".repeat(JSON_LIMITS.depth) + "]".repeat(JSON_LIMITS.depth);
    assert.deepEqual(parse(text), JSON.parse(text));
  });

  test("bounds the length of a string", () => {
    const text = `"${"x".repeat(JSON_LIMITS.stringCharacters + 1)}"`;
    assert.equal(faultOf(() => parse(text)).kind, "too-long");
  });

  test("takes Python's numbers only when asked", () => {
    assert.deepEqual(parse('{"a":[0.5,Infinity,-Infinity,NaN]}', true), { a: [0.5, Infinity, -Infinity, Number.NaN] });
    assert.equal(faultOf(() => parse("[Infinity]")).kind, "syntax");
  });

  test("reads unsigned integers exactly", () => {
    const read = (text: string) => new JsonScanner(text, { refuse }).readUnsigned();
    assert.equal(read("0"), 0);
    assert.equal(read("9007199254740991"), 2 ** 53 - 1);
    assert.equal(read("9007199254740992"), 2n ** 53n);
    assert.equal(read("9007199254740993"), 2n ** 53n + 1n);
    assert.equal(read("18446744073709551615"), 2n ** 64n - 1n);
    for (const text of ["18446744073709551616", "1".repeat(400), "1.0", "1e2", "-1", "-0", "01", '"1"', "null"]) {
      assert.equal(faultOf(() => read(text)).kind, "integer", text);
    }
    assert.equal(faultOf(() => read("")).kind, "syntax");
    assert.equal(faultOf(() => read("+1")).kind, "syntax");
  });

  test("lets a caller skip values and see names given twice", () => {
    const scanner = new JsonScanner('{"a": {"x": [1, "}", null]}, "a": true}', { refuse });
    const names: string[] = [];
    scanner.readObject((name) => {
      names.push(name);
      scanner.skipValue();
    });
    scanner.readEnd();
    assert.deepEqual(names, ["a", "a"]);
  });
});
