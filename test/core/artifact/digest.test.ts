// Digests against SHA-256 values published elsewhere, and canonical JSON.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { suite, test } from "node:test";
import {
  canonicalJson,
  createHasher,
  digestBytes,
  digestJson,
  digestTensorFile,
} from "../../../core/artifact/digest.ts";

/** FIPS 180-2, appendix B.1 and the digest of nothing. */
const ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const NOTHING = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

suite("digests", () => {
  test("are SHA-256 of the bytes or of the text's UTF-8", () => {
    assert.equal(digestBytes("abc"), ABC);
    assert.equal(digestBytes(new Uint8Array([0x61, 0x62, 0x63])), ABC);
    assert.equal(digestBytes(""), NOTHING);
    assert.equal(digestBytes("é"), digestBytes(new Uint8Array([0xc3, 0xa9])));
  });

  test("fed piece by piece are those of the whole", () => {
    const hasher = createHasher();
    hasher.update(new Uint8Array([0x61]));
    hasher.update(new Uint8Array([]));
    hasher.update(new Uint8Array([0x62, 0x63]));
    assert.equal(hasher.digest(), ABC);
  });

  test("of a tensor file cover its parts' digests, one a line, in order", () => {
    const lines = `${NOTHING}\n${ABC}\n`;
    assert.equal(digestTensorFile(NOTHING, [ABC]), `sha256:${createHash("sha256").update(lines).digest("hex")}`);
    assert.notEqual(digestTensorFile(NOTHING, [ABC]), digestTensorFile(ABC, [NOTHING]));
    assert.equal(digestTensorFile(ABC, []), digestBytes(`${ABC}\n`));
  });
});

suite("canonical JSON", () => {
  test("sorts names at every level, keeps arrays and drops what is undefined", () => {
    const value = { b: [{ z: 1, a: null }, 2], a: { d: "x", c: undefined } };
    assert.equal(canonicalJson(value), '{"a":{"d":"x"},"b":[{"a":null,"z":1},2]}');
  });

  test("is the same for equal values, whatever the order of their names", () => {
    assert.equal(digestJson({ a: 1, b: 2 }), digestJson({ b: 2, a: 1 }));
    assert.notEqual(digestJson([1, 2]), digestJson([2, 1]));
    assert.equal(digestJson("abc"), digestBytes('"abc"'));
  });
});
