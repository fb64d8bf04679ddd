// The order of names against the order of their encoded bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compareUtf8, sortByName } from "../../core/utf8-order.ts";

test("texts are ordered as their UTF-8 bytes", () => {
  const text = fc.string({
    unit: fc.constantFrom("a", "b", "\u07ff", "\ud7ff", "\ue000", "\uffff", "\u{10000}", "\u{10ffff}"),
  });
  fc.assert(
    fc.property(text, text, (a, b) => {
      assert.equal(Math.sign(compareUtf8(a, b)), Buffer.compare(Buffer.from(a), Buffer.from(b)));
    }),
    { seed: 1, numRuns: 2000 },
  );
});

test("a large code point comes after every small one, unlike in UTF-16", () => {
  assert.ok("\u{10000}" < "\uffff");
  assert.ok(compareUtf8("\u{10000}", "\uffff") > 0);
  assert.deepEqual(
    sortByName([{ name: "\u{10000}" }, { name: "\uffff" }, { name: "a" }]).map(({ name }) => name),
    ["a", "\uffff", "\u{10000}"],
  );
});
