// Which keys, prefixes and names are legal.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { checkKey, checkName, checkPrefix } from "../../../core/artifact/key.ts";
import { type ErrorCode, MergeyardError } from "../../../core/error.ts";

function refuses(check: () => unknown, code: ErrorCode): void {
  assert.throws(check, { code });
}

test("keys that every store can hold are accepted as they are", () => {
  const keys = ["a", "a/b", "model-00001-of-00002.safetensors", "...", "a b", ".hidden", "ü/日本", "x".repeat(255)];
  keys.push(`${`${"y".repeat(255)}/`.repeat(3)}${"y".repeat(256)}`.slice(0, 1023), "sub/.mergeyard/a");
  for (const key of keys) assert.equal(checkKey(key), key);
});

test("keys that could leave the root, or that some store cannot hold, are refused with their place", () => {
  const keys = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "../a",
    "a/./b",
    "a\\b",
    "a\nb",
    "a\0",
    "a\x7f",
    "\x9f",
  ];
  keys.push(
    "x".repeat(256),
    `${"é".repeat(128)}`,
    `${"a/".repeat(600)}a`,
    "\ud800",
    "a\uffff",
    ".mergeyard",
    ".mergeyard/a",
  );
  for (const key of keys) refuses(() => checkKey(key), "StoreKeyInvalid");
  assert.throws(
    () => checkKey("models/../secret"),
    (error) => error instanceof MergeyardError && error.where.file === "models/../secret" && error.found !== undefined,
  );
});

test("a prefix may be empty, end in a slash or end within a name", () => {
  for (const prefix of ["", "a", "a/", "a/b", "runs/1", ".merge"]) assert.equal(checkPrefix(prefix), prefix);
  for (const prefix of ["/", "a//", "../", "a/../", "a\\", ".mergeyard/"]) {
    refuses(() => checkPrefix(prefix), "StoreKeyInvalid");
  }
});

test("names are plain words", () => {
  for (const name of ["a", "llama-3.1_8B", "0", "x".repeat(128)]) assert.equal(checkName(name), name);
  for (const name of ["", ".", "..", ".a", "-a", "a/b", "a b", "ü", "a\n", "x".repeat(129), "a@1", "a:b"]) {
    refuses(() => checkName(name), "StoreNameInvalid");
  }
});

test("a key that is accepted stays below the root when it is joined to it", () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom("a", ".", "/", "\\", "\0", "é"), maxLength: 12 }), (key) => {
      try {
        checkKey(key);
      } catch {
        return;
      }
      const url = new URL(key.split("/").map(encodeURIComponent).join("/"), "file:///root/");
      assert.ok(url.pathname.startsWith("/root/") && url.pathname.length > "/root/".length, key);
    }),
    { seed: 1 },
  );
});
