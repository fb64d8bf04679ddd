// Documents of Python programs that are written anew: what its json module reads back is of the same kind.
import assert from "node:assert/strict";
import test from "node:test";
import { parseJsonObject } from "../../core/formats/json-scan.ts";
import { markFloats, stringifyPython } from "../../core/json.ts";
import { configInDtype } from "../../core/plan/output-config.ts";

const parse = (text: string) =>
  parseJsonObject(new TextEncoder().encode(text), {
    pythonNumbers: true,
    refuse: ({ found }) => new Error(found),
  });
/** The numbers of a text, as they are written. */
const numbersIn = (text: string) => text.match(/-?\d[\d.e+-]*|-?Infinity|NaN/g);

test("whole numbers that were floats stay floats, through copies, in sections and in lists", () => {
  const config = parse(
    '{"cap": 30.0, "size": 30, "eps": 1e-05, "theta": 1e6, "zero": 0.0, "far": 1e300, "none": null, "name": "7.0",' +
      '"rope": {"factor": 8.0, "length": 8192}, "limits": [0.0, Infinity], "ids": [1, 2], "pairs": [[1.0, 2], [3]],' +
      '"parts": [{"scale": 2.0, "count": 2}]}',
  );
  const { name, ...rest } = config;
  assert.deepEqual(numbersIn(stringifyPython({ ...rest, added: 1 })), [
    ...["30.0", "30", "0.00001", "1000000.0", "0.0", "1e+300", "8.0", "8192", "0.0", "Infinity", "1", "2"],
    ...["1.0", "2.0", "3.0", "2.0", "2", "1"],
  ]);
  assert.equal(name, "7.0");
  const text = configInDtype(config, "BF16");
  assert.match(text, /"cap": 30\.0,\n {2}"size": 30,/);
  assert.match(text, /"name": "7\.0"/);
  assert.deepEqual(JSON.parse(text.replace("Infinity", "1")).rope, { factor: 8, length: 8192 });
});

test("a value that replaces a float is written as what it is, and marks can be set by hand", () => {
  const config = parse('{"cap": 30.0, "scale": 1.0}');
  assert.deepEqual(numbersIn(stringifyPython({ ...config, cap: 2.5, scale: Number.NaN })), ["2.5", "NaN"]);
  const made = { theta: 10_000, layers: 4 };
  markFloats(made, new Set(["theta"]));
  assert.deepEqual(numbersIn(stringifyPython(made)), ["10000.0", "4"]);
  assert.equal(JSON.stringify(made), '{"theta":10000,"layers":4}');
});
